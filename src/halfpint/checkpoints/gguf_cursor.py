"""Reading a GGUF header piece by piece, every length checked against the file before anything is allocated."""

from __future__ import annotations

import struct
from array import array

import numpy as np

from halfpint.checkpoints.gguf_metadata import StringArray
from halfpint.checkpoints.regular_file import RegularFile
from halfpint.errors import CheckpointError

LONGEST_HEADER = 64 << 20
"""Bytes of metadata and tensor list; a vocabulary of a quarter of a million tokens takes about ten million."""

MOST_STRINGS = 4_000_000
"""Strings in all arrays of a file: what bounds the time to pass over them."""

_CHUNK = 1 << 20
_LENGTH = struct.Struct("<Q")


class Cursor:
    """A position in a GGUF header, moved forward by reading.

    Bytes are fetched in growing pieces and dropped when passed, so that a header needs little more memory than
    its largest array.
    """

    __slots__ = ("_at", "_base", "_buffer", "_file", "_strings_left")

    def __init__(self, file: RegularFile) -> None:
        self._file = file
        self._buffer = bytearray()
        self._base = 0  # offset of the buffer in the file
        self._at = 0  # position in the buffer
        self._strings_left = MOST_STRINGS

    @property
    def position(self) -> int:
        """Offset in the file."""
        return self._base + self._at

    @property
    def remaining(self) -> int:
        """Bytes of the file from here on."""
        return self._file.size - self.position

    def fail(self, what: str) -> CheckpointError:
        """Make an error that tells file and position."""
        return CheckpointError(f"{self._file.path}: {what} (at byte {self.position})")

    def raw(self, count: int, what: str) -> bytes:
        """Read bytes."""
        self._require(count, what)
        start, self._at = self._at, self._at + count
        return bytes(memoryview(self._buffer)[start : self._at])

    def unpack(self, layout: struct.Struct, what: str) -> tuple[int, ...]:
        """Read a little-endian struct."""
        self._require(layout.size, what)
        values = layout.unpack_from(self._buffer, self._at)
        self._at += layout.size
        return values

    def uint32(self, what: str) -> int:
        """Read four bytes."""
        return int.from_bytes(self.raw(4, what), "little")

    def uint64(self, what: str) -> int:
        """Read eight bytes."""
        return int.from_bytes(self.raw(8, what), "little")

    def count(self, smallest: int, most: int, what: str) -> int:
        """Read a count of things that take at least `smallest` bytes each, and are at most `most`.

        Raises
        ------
        CheckpointError
            If the rest of the file cannot hold them.
        """
        value = self.uint64(what)
        if value > most or value * smallest > self.remaining:
            raise self.fail(
                f"{what} is {value}, but the {self.remaining} bytes left hold at most "
                f"{min(most, self.remaining // smallest)}; the file is damaged or hostile"
            )
        return value

    def text(self, longest: int, what: str) -> str:
        """Read a string: its length, then UTF-8."""
        length = self.uint64(f"length of {what}")
        if length > longest or length > self.remaining:
            raise self.fail(
                f"{what} is {length} bytes long, but {min(longest, self.remaining)} are possible here; "
                "the file is damaged or hostile"
            )
        data = self.raw(length, what)
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.fail(f"{what} is not UTF-8") from error

    def strings(self, count: int, what: str) -> StringArray:
        """Read `count` strings without decoding them."""
        self._strings_left -= count
        if self._strings_left < 0:
            raise self.fail(f"{what} makes more than {MOST_STRINGS} strings; such a file is not read")
        ends = array("q")
        needed = 0
        while len(ends) < count:
            self._require(needed, what)
            needed = self._pass_over(ends, count)
        stored = self.raw(ends[-1] if ends else 0, what)
        return StringArray(stored, np.frombuffer(ends, np.int64), f"{self._file.path}: {what}")

    def _pass_over(self, ends: array[int], count: int) -> int:
        """Note ends of strings that the buffer holds whole; give the bytes needed from here to go on."""
        buffer, start, available = self._buffer, self._at, len(self._buffer) - self._at
        unpack_from, append = _LENGTH.unpack_from, ends.append
        end = ends[-1] if ends else 0
        for _ in range(count - len(ends)):
            if end + 8 > available:
                return end + 8
            (length,) = unpack_from(buffer, start + end)
            if end + 8 + length > available:
                return end + 8 + int(length)
            end += 8 + length
            append(end)
        return 0

    def _require(self, count: int, what: str) -> None:
        """Have `count` bytes from here in the buffer."""
        have = len(self._buffer) - self._at
        if count <= have:
            return
        if count > self.remaining:
            raise self.fail(f"{what} needs {count} bytes, but {self.remaining} are left; the file is cut short")
        if self.position + count > LONGEST_HEADER:
            raise self.fail(f"{what} would make the header longer than {LONGEST_HEADER} bytes; it is not read")
        del self._buffer[: self._at]
        self._base += self._at
        self._at = 0
        wanted = min(max(count - have, have, _CHUNK), self._file.size - self._base - have)
        self._buffer += self._file.read(self._base + have, wanted, "GGUF header")
