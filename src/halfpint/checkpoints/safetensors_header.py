"""The header of a safetensors file: a strict parser, and the serializer of our own headers.

Layout: 8 bytes little-endian length N, then N bytes of JSON, then the data that `data_offsets` count from. The JSON
maps each name to `{"dtype": .., "shape": [..], "data_offsets": [begin, end]}`, and `__metadata__` to strings
(https://github.com/huggingface/safetensors, README, "Format").

The grammar is so small that it is matched here piece by piece instead of being handed to a JSON library: the
first byte that cannot belong to a header ends the reading, so nesting, repeated keys, NaN and numbers without
end cost neither time nor memory. Everything that the reference implementation refuses is refused, and a little
more: unknown fields, names over 500 bytes, shapes of more than 32 axes, more than 100,000 tensors.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple, NoReturn

import ml_dtypes
import numpy as np

from halfpint.errors import CheckpointError, UnsupportedError

LONGEST_HEADER = 100_000_000
"""Bytes; the reference implementation's limit."""

MOST_TENSORS = 100_000
"""In one file: the largest models have about 200,000 in more than a hundred files."""

_LONGEST_NAME = 500
_LONGEST_METADATA = 16_000_000
_MOST_METADATA = 10_000
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

_WORDS = {word.encode(): word for word in DTYPES}
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
_NUMBERS = rb"\[" + _SPACE + rb"((?:[0-9]{1,20}(?:" + _SPACE + rb"," + _SPACE + rb"[0-9]{1,20}){0,31})?)"
_NUMBERS += _SPACE + rb"\]"
_COLON = _SPACE + rb":" + _SPACE
_DTYPE_FIELD = rb'"dtype"' + _COLON + rb'"([A-Za-z0-9_]{1,32})"'
_SHAPE_FIELD = rb'"shape"' + _COLON + _NUMBERS
_OFFSETS_FIELD = rb'"data_offsets"' + _COLON + _NUMBERS
_ANY_FIELD = rb"(?:" + _DTYPE_FIELD + rb"|" + _SHAPE_FIELD + rb"|" + _OFFSETS_FIELD + rb")"
_BETWEEN = _SPACE + rb"," + _SPACE
# A whole member, its fields in any order, and the comma if another member follows: one match instead of ten.
_MEMBER = re.compile(
    rb'"([^"\\\x00-\x1f]{1,500})"'
    + _COLON
    + rb"\{"
    + _SPACE
    + _BETWEEN.join([_ANY_FIELD] * 3)
    + _SPACE
    + rb"\}("
    + _BETWEEN
    + rb'(?="))?'
)
_NAME = re.compile(_STRING + _COLON)
_FIELD = re.compile(_ANY_FIELD)
_PAIR = re.compile(_STRING + _COLON + _STRING)
_LEADING_ZERO = re.compile(rb"(?:^|[^0-9])0[0-9]")
_OPEN = re.compile(rb"\{" + _SPACE)
_COMMA = re.compile(_SPACE + rb"," + _SPACE)
_CLOSE = re.compile(_SPACE + rb"\}")
_END = re.compile(_SPACE + rb"\Z")


_FIELDS = ("dtype", "shape", "data_offsets")


def _given(values: Sequence[bytes | None]) -> bytes | None:
    """Pick the one that was matched."""
    first, second, third = values
    return first if first is not None else second if second is not None else third


class _HeaderText:
    """A cursor over the header's text."""

    def __init__(self, text: bytes, file_name: str) -> None:
        self.text = text
        self.file_name = file_name
        self.position = 0
        self.entries: dict[str, TensorEntry] = {}
        self.metadata: dict[str, str] | None = None

    def parse(self) -> tuple[dict[str, TensorEntry], dict[str, str]]:
        """Read the whole text: `{`, members with commas between, `}`, white space."""
        if not self.text.startswith(b"{"):
            self.fail("the header does not begin with '{'")
        for _ in self.members():
            while self.usual_member():
                pass
        if not _END.match(self.text, self.position):
            self.fail("something follows the closing brace")
        return self.entries, self.metadata or {}

    def usual_member(self) -> bool:
        """Read one member; whether it was followed by a comma and the next one, which must then be read."""
        match = _MEMBER.match(self.text, self.position)
        if match is None or match[1] == b"__metadata__":
            self.member()
            return False
        name, *values, comma = match.groups()
        dtype, shape, offsets = (_given(values[field::3]) for field in range(3))
        if dtype is None or shape is None or offsets is None:
            self.member()  # says which field is missing, and where
            return False
        self.add(self.decode(name), dtype, self.numbers(shape), self.numbers(offsets))
        self.position = match.end()
        return comma is not None

    def member(self) -> None:
        """Read one member, however it is written."""
        name = self.name()
        if name != "__metadata__":
            self.add(name, *self.fields(name))
        elif self.metadata is not None:
            self.fail("'__metadata__' appears twice")
        else:
            self.metadata = self.metadata_pairs()

    def add(self, name: str, dtype: bytes, shape: tuple[int, ...], offsets: tuple[int, ...]) -> None:
        """Check one tensor and keep it."""
        if name in self.entries:
            self.fail(f"the tensor {name[:80]!r} appears twice")
        if "\0" in name or "\x7f" in name:
            self.fail("a tensor's name contains a control character")
        if len(offsets) != 2:
            self.fail(f"tensor {name[:80]!r}: data_offsets holds {len(offsets)} numbers, not 2")
        # The word of the table stands for the word of the file, so that there is one object for all.
        word = _WORDS.get(dtype) or dtype.decode("ascii")
        entry = TensorEntry(word, shape, offsets[0], offsets[1])
        self.check(name, entry)
        self.entries[name] = entry
        if len(self.entries) > MOST_TENSORS:
            self.fail(f"more than {MOST_TENSORS} tensors in one file; split it into shards")

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
        """Read the name of a member and the colon after it."""
        # The name itself, all of its escapes, and the colon lie within a bounded window.
        match = _NAME.match(self.text, self.position, self.position + 8 * _LONGEST_NAME)
        if match is None:
            self.fail("expected the name of a tensor in quotes, and ':'")
        if not 1 <= len(match[1]) <= _LONGEST_NAME:
            self.fail(f"a tensor's name has {len(match[1])} bytes; 1 to {_LONGEST_NAME} are read")
        name = self.decode(match[1])
        self.position = match.end()
        return name

    def fields(self, name: str) -> tuple[bytes, tuple[int, ...], tuple[int, ...]]:
        """Read dtype, shape and data_offsets, each exactly once, in any order."""
        found: dict[str, bytes] = {}
        for _ in self.members():
            match = _FIELD.match(self.text, self.position)
            if match is None:
                self.fail(
                    f'tensor {name[:80]!r}: expected "dtype": a word, "shape": whole numbers (at most 32), '
                    'or "data_offsets": two whole numbers'
                )
            key, value = next(
                (key, value) for key, value in zip(_FIELDS, match.groups(), strict=True) if value is not None
            )
            if key in found:
                self.fail(f"tensor {name[:80]!r}: {key} appears twice")
            found[key] = value
            self.position = match.end()
        for key in _FIELDS:
            if key not in found:
                self.fail(f"tensor {name[:80]!r}: {key} is missing")
        dtype, shape, offsets = (found[key] for key in _FIELDS)
        return dtype, self.numbers(shape), self.numbers(offsets)

    def numbers(self, text: bytes) -> tuple[int, ...]:
        """Read whole numbers with commas between; JSON allows no zero before another digit."""
        if not text:
            return ()
        if _LEADING_ZERO.search(text):
            self.fail("a number begins with 0")
        return tuple(map(int, text.split(b",")))

    def metadata_pairs(self) -> dict[str, str]:
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
            if len(found) > _MOST_METADATA:
                self.fail(f"__metadata__ holds more than {_MOST_METADATA} pairs")
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
