"""The header of a safetensors file: a strict parser, and the serializer of our own headers.

Layout: 8 bytes little-endian length N, then N bytes of JSON, then the data that `data_offsets` count from. The JSON
maps each name to `{"dtype": .., "shape": [..], "data_offsets": [begin, end]}`, and `__metadata__` to strings
(https://github.com/huggingface/safetensors, README, "Format").

The grammar is so small that it is matched here piece by piece instead of being handed to a JSON library: the
first byte that cannot belong to a header ends the reading, so nesting, repeated keys, NaN and numbers without
end cost neither time nor memory. Everything that the reference implementation refuses is refused, and a little
more: unknown fields, names over 1,000 bytes, shapes of more than 32 axes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple, NoReturn

import ml_dtypes
import numpy as np

from halfpint.errors import CheckpointError, UnsupportedError

LONGEST_HEADER = 100_000_000
"""Bytes; the reference implementation's limit."""

MOST_TENSORS = 250_000
"""In one file: the largest models have about 200,000 over all their files."""

_LONGEST_NAME = 1_000
_LONGEST_METADATA = 16_000_000
_LARGEST_COUNT = 2**63 - 1

DTYPES: Mapping[str, np.dtype[np.generic]] = MappingProxyType(
    {
        "BOOL": np.dtype(np.bool_),
        "U8": np.dtype(np.uint8),
        "I8": np.dtype(np.int8),
        "U16": np.dtype(np.uint16),
        "I16": np.dtype(np.int16),
        "U32": np.dtype(np.uint32),
        "I32": np.dtype(np.int32),
        "U64": np.dtype(np.uint64),
        "I64": np.dtype(np.int64),
        "F16": np.dtype(np.float16),
        "BF16": np.dtype(ml_dtypes.bfloat16),
        "F32": np.dtype(np.float32),
        "F64": np.dtype(np.float64),
        "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
        "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    }
)
"""The dtype words that are read and written, and what NumPy calls them."""

_KNOWN_ELSEWHERE = frozenset({"F4", "F6_E2M3", "F6_E3M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "C64"})


class TensorEntry(NamedTuple):
    """What a header says of one tensor; `begin` and `end` are bytes counted from the start of the data."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class SafetensorsHeader:
    """A checked header.

    Attributes
    ----------
    entries : Mapping of str to TensorEntry
        In the order of the header. Together they cover the data exactly, without gap or overlap.
    metadata : Mapping of str to str
        The `__metadata__` object; empty when there is none.
    data_start : int
        Byte of the file at which the data begins.
    """

    entries: Mapping[str, TensorEntry]
    metadata: Mapping[str, str]
    data_start: int


def parse_header(text: bytes, data_bytes: int, file_name: str) -> SafetensorsHeader:
    """Parse and check the JSON part of a header.

    Parameters
    ----------
    text : bytes
        The header without its 8 bytes of length.
    data_bytes : int
        Bytes of the file after the header.
    file_name : str
        Names the file in errors.

    Raises
    ------
    CheckpointError
        If the header breaks any rule of the format; the message names the tensor and the byte of the file.
    UnsupportedError
        If it is sound but has a dtype narrower than a byte, or another that is not read here.
    """
    header = _HeaderText(text, file_name)
    entries, metadata = header.parse()
    _check_coverage(entries, data_bytes, file_name)
    return SafetensorsHeader(MappingProxyType(entries), MappingProxyType(metadata), 8 + len(text))


def serialize_header(entries: Mapping[str, TensorEntry], metadata: Mapping[str, str]) -> bytes:
    """Write a header, its 8 bytes of length included, padded with spaces to a multiple of 8 bytes."""
    table: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    for name, entry in entries.items():
        table[name] = {
            "dtype": entry.dtype,
            "shape": list(entry.shape),
            "data_offsets": [entry.begin, entry.end],
        }
    text = json.dumps(table, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


_SPACE = rb"[ \t\n\r]*+"
_STRING = rb'"((?:[^"\\\x00-\x1f]++|\\["\\/bfnrtu])*+)"'
_NUMBER = rb"(0|[1-9][0-9]{0,19})"
_NUMBERS = rb"\[" + _SPACE + rb"((?:[0-9]{1,20}(?:" + _SPACE + rb"," + _SPACE + rb"[0-9]{1,20}){0,31})?)"
_NUMBERS += _SPACE + rb"\]"
_ENTRY = re.compile(
    rb'\{"dtype":"([A-Za-z0-9_]{1,32})","shape":\[((?:[0-9]{1,20}(?:, ?[0-9]{1,20}){0,31})?)\],'
    rb'"data_offsets":\[([0-9]{1,20}), ?([0-9]{1,20})\]\}'
)
_NAME = re.compile(_STRING + _SPACE + rb":" + _SPACE)
_FIELD = re.compile(
    rb'"(dtype)"' + _SPACE + rb":" + _SPACE + rb'"([A-Za-z0-9_]{1,32})"'
    rb'|"(shape|data_offsets)"' + _SPACE + rb":" + _SPACE + _NUMBERS
)
_PAIR = re.compile(_STRING + _SPACE + rb":" + _SPACE + _STRING)
_OPEN = re.compile(rb"\{" + _SPACE)
_COMMA = re.compile(_SPACE + rb"," + _SPACE)
_CLOSE = re.compile(_SPACE + rb"\}")
_END = re.compile(_SPACE + rb"\Z")


class _HeaderText:
    """A cursor over the header's text."""

    def __init__(self, text: bytes, file_name: str) -> None:
        self.text = text
        self.file_name = file_name
        self.position = 0

    def parse(self) -> tuple[dict[str, TensorEntry], dict[str, str]]:
        """Read the whole text: `{`, members with commas between, `}`, white space."""
        entries: dict[str, TensorEntry] = {}
        metadata: dict[str, str] | None = None
        if not self.text.startswith(b"{"):
            self.fail("the header does not begin with '{'")
        for _ in self.members():
            name = self.name()
            if name == "__metadata__":
                if metadata is not None:
                    self.fail("'__metadata__' appears twice")
                metadata = self.metadata()
                continue
            if name in entries:
                self.fail(f"the tensor {name[:80]!r} appears twice")
            entries[name] = self.entry(name)
            if len(entries) > MOST_TENSORS:
                self.fail(f"more than {MOST_TENSORS} tensors in one file; split it into shards")
        if not _END.match(self.text, self.position):
            self.fail("something follows the closing brace")
        return entries, metadata or {}

    def members(self) -> Iterable[None]:
        """Yield at the start of each member of an object, and leave the cursor behind the closing brace."""
        if not self.accept(_OPEN):
            self.fail("expected '{'")
        if self.accept(_CLOSE):
            return
        while True:
            yield
            if self.accept(_CLOSE):
                return
            if not self.accept(_COMMA):
                self.fail("expected ',' or '}'")

    def accept(self, pattern: re.Pattern[bytes]) -> bool:
        """Step over the pattern if it comes next."""
        match = pattern.match(self.text, self.position)
        if match is None:
            return False
        self.position = match.end()
        return True

    def name(self) -> str:
        # The name itself, all of its escapes, and the colon lie within a bounded window.
        match = _NAME.match(self.text, self.position, self.position + 8 * _LONGEST_NAME)
        if match is None:
            self.fail("expected the name of a tensor in quotes, and ':'")
        name = self.decode(match[1])
        if len(match[1]) > _LONGEST_NAME or not name:
            self.fail(f"a tensor's name has {len(match[1])} bytes; 1 to {_LONGEST_NAME} are read")
        if "\0" in name:
            self.fail("a tensor's name contains NUL")
        self.position = match.end()
        return name

    def entry(self, name: str) -> TensorEntry:
        """Read one tensor's object: in the order that every writer uses at once, in any other by its fields."""
        match = _ENTRY.match(self.text, self.position)
        if match is not None:
            dtype, shape, offsets = match[1], self.numbers(match[2]), self.numbers(match[3] + b"," + match[4])
            self.position = match.end()
        else:
            dtype, shape, offsets = self.fields(name)
        if len(offsets) != 2:
            self.fail(f"tensor {name[:80]!r}: data_offsets holds {len(offsets)} numbers, not 2")
        entry = TensorEntry(dtype.decode("ascii"), shape, offsets[0], offsets[1])
        self.check(name, entry)
        return entry

    def fields(self, name: str) -> tuple[bytes, tuple[int, ...], tuple[int, ...]]:
        """Read dtype, shape and data_offsets, each exactly once, in any order."""
        found: dict[bytes, bytes] = {}
        for _ in self.members():
            match = _FIELD.match(self.text, self.position)
            if match is None:
                self.fail(
                    f'tensor {name[:80]!r}: expected "dtype": a word, "shape": whole numbers (at most 32), '
                    'or "data_offsets": two whole numbers'
                )
            key, value = (match[1], match[2]) if match[1] else (match[3], match[4])
            if key in found:
                self.fail(f"tensor {name[:80]!r}: {key.decode()} appears twice")
            found[key] = value
            self.position = match.end()
        for key in (b"dtype", b"shape", b"data_offsets"):
            if key not in found:
                self.fail(f"tensor {name[:80]!r}: {key.decode()} is missing")
        return found[b"dtype"], self.numbers(found[b"shape"]), self.numbers(found[b"data_offsets"])

    def numbers(self, text: bytes) -> tuple[int, ...]:
        words = text.replace(b" ", b"").split(b",") if text else []
        for word in words:
            digits = word.strip()
            if len(digits) > 1 and digits.startswith(b"0"):
                self.fail("a number begins with 0")
        return tuple(map(int, words))

    def metadata(self) -> dict[str, str]:
        """Read the `__metadata__` object: strings to strings."""
        found: dict[str, str] = {}
        start = self.position
        for _ in self.members():
            match = _PAIR.match(self.text, self.position, start + _LONGEST_METADATA)
            if match is None:
                self.fail(f"__metadata__ holds something else than strings, or over {_LONGEST_METADATA} bytes")
            key = self.decode(match[1])
            if key in found:
                self.fail(f"__metadata__ holds {key[:80]!r} twice")
            found[key] = self.decode(match[2])
            self.position = match.end()
        return found

    def decode(self, text: bytes) -> str:
        """Turn the inside of a JSON string into text."""
        try:
            plain = text.decode("utf-8")
            if "\\" in plain:
                plain = str(json.loads(f'"{plain}"'))
                plain.encode("utf-8")  # refuses half of a surrogate pair
        except (UnicodeError, json.JSONDecodeError):
            self.fail("a string is not valid UTF-8, or has a bad escape")
        return plain

    def check(self, name: str, entry: TensorEntry) -> None:
        """Check one tensor by itself: its dtype is known, and shape and offsets give the same size."""
        dtype = DTYPES.get(entry.dtype)
        if dtype is None:
            if entry.dtype in _KNOWN_ELSEWHERE:
                raise UnsupportedError(
                    f"{self.file_name}: tensor {name[:80]!r} has dtype {entry.dtype}, which is not read yet; "
                    f"read are {', '.join(DTYPES)}"
                )
            self.fail(f"tensor {name[:80]!r} has the unknown dtype {entry.dtype!r}")
        count = dtype.itemsize
        for length in entry.shape:
            # A zero axis must not hide that the others overflow: NumPy and the reference refuse that, too.
            count *= max(length, 1)
            if count > _LARGEST_COUNT:
                self.fail(f"tensor {name[:80]!r}: the shape {list(entry.shape)} is too large")
        if 0 in entry.shape:
            count = 0
        if entry.begin > entry.end or entry.end - entry.begin != count:
            self.fail(
                f"tensor {name[:80]!r}: {entry.dtype} {list(entry.shape)} is {count} bytes, but data_offsets "
                f"are [{entry.begin}, {entry.end}]"
            )

    def fail(self, reason: str) -> NoReturn:
        raise CheckpointError(f"{self.file_name}: {reason} (byte {8 + self.position})")


def _check_coverage(entries: Mapping[str, TensorEntry], data_bytes: int, file_name: str) -> None:
    """Check that the tensors, ordered by offset, follow each other from 0 to the end of the file."""
    expected = 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1][2:]):
        if entry.begin != expected:
            kind = "overlaps the tensor before it" if entry.begin < expected else "leaves a gap before it"
            raise CheckpointError(
                f"{file_name}: tensor {name[:80]!r} {kind}: it begins at data byte {entry.begin}, not {expected}"
            )
        expected = entry.end
    if expected != data_bytes:
        kind = "is cut short: it" if data_bytes < expected else "has more than its header says: it"
        raise CheckpointError(f"{file_name} {kind} holds {data_bytes} bytes of data, the tensors {expected}")
