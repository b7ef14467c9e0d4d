"""GGUF's metadata: typed values under dotted keys, checked when they are used, and written byte for byte.

Layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from types import MappingProxyType
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from halfpint.errors import CheckpointError
from halfpint.tensors import Array


class ValueType(IntEnum):
    """What a value in the metadata is; GGUF's numbers."""

    UINT8 = 0
    INT8 = 1
    UINT16 = 2
    INT16 = 3
    UINT32 = 4
    INT32 = 5
    FLOAT32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    UINT64 = 10
    INT64 = 11
    FLOAT64 = 12


NUMBERS: Mapping[ValueType, np.dtype[np.generic]] = MappingProxyType(
    {
        ValueType.UINT8: np.dtype("<u1"),
        ValueType.INT8: np.dtype("<i1"),
        ValueType.UINT16: np.dtype("<u2"),
        ValueType.INT16: np.dtype("<i2"),
        ValueType.UINT32: np.dtype("<u4"),
        ValueType.INT32: np.dtype("<i4"),
        ValueType.FLOAT32: np.dtype("<f4"),
        ValueType.BOOL: np.dtype("<u1"),
        ValueType.UINT64: np.dtype("<u8"),
        ValueType.INT64: np.dtype("<i8"),
        ValueType.FLOAT64: np.dtype("<f8"),
    }
)
"""How single numbers are stored; booleans are bytes of 0 or 1."""

INTEGERS = frozenset(
    {
        ValueType.UINT8,
        ValueType.INT8,
        ValueType.UINT16,
        ValueType.INT16,
        ValueType.UINT32,
        ValueType.INT32,
        ValueType.UINT64,
        ValueType.INT64,
    }
)
FLOATS = frozenset({ValueType.FLOAT32, ValueType.FLOAT64})


class StringArray(Sequence[str]):
    """An array of strings as it lies in a file, decoded when it is asked for.

    Vocabularies of a quarter of a million tokens are passed over at opening and decoded only by who needs them.

    Parameters
    ----------
    stored : bytes
        Each string as its length (8 bytes, little endian) and its UTF-8.
    ends : int64 [count]
        Where each string ends in `stored`.
    what : str
        Names the array in errors.
    """

    __slots__ = ("_ends", "_what", "stored")

    def __init__(self, stored: bytes, ends: NDArray[np.int64], what: str) -> None:
        self.stored = stored
        self._ends = ends
        self._what = what

    @classmethod
    def of(cls, texts: Sequence[str], what: str) -> StringArray:
        """Store texts."""
        encoded = [text.encode() for text in texts]
        ends = np.cumsum([8 + len(text) for text in encoded], dtype=np.int64)
        return cls(b"".join(struct.pack("<Q", len(text)) + text for text in encoded), ends, what)

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if index < 0:
            index += len(self)
        if not 0 <= index < len(self):
            raise IndexError(index)
        start = int(self._ends[index - 1]) if index else 0
        return self._decode(start, int(self._ends[index]), index)

    def __iter__(self) -> Iterator[str]:
        start = 0
        for index, end in enumerate(self._ends.tolist()):
            yield self._decode(start, end, index)
            start = end

    def __repr__(self) -> str:
        return f"<{len(self)} strings of {self._what}>"

    def _decode(self, start: int, end: int, index: int) -> str:
        try:
            return self.stored[start + 8 : end].decode("utf-8")
        except UnicodeDecodeError as error:
            raise CheckpointError(f"{self._what}: string {index} is not UTF-8") from error


@dataclass(frozen=True, slots=True)
class GgufValue:
    """One value: a number, a truth value, a text, or an array.

    Attributes
    ----------
    type : ValueType
        Of the value.
    data : int, float, bool, str, StringArray or Array
        Arrays of numbers are NumPy arrays in the stored dtype (uint8 for booleans).
    element : ValueType or None
        Of an array's elements.
    """

    type: ValueType
    data: Any
    element: ValueType | None = None

    @property
    def kind(self) -> str:
        """The type in words, for messages."""
        if self.element is None:
            return self.type.name.lower()
        return f"array of {self.element.name.lower()}"

    @property
    def plain(self) -> Any:
        """The value as Python's own types: numbers, texts, lists of them."""
        if isinstance(self.data, StringArray):
            return list(self.data)
        if self.element is ValueType.BOOL:
            return self.data.astype(bool).tolist()
        return self.data.tolist() if self.element is not None else self.data

    def encode(self) -> bytes:
        """Give the bytes of type and value, as the file holds them."""
        if self.element is None:
            return struct.pack("<I", self.type) + _encode_single(self.type, self.data)
        body = self.data.stored if isinstance(self.data, StringArray) else self.data.tobytes()
        return struct.pack("<IIQ", self.type, self.element, len(self.data)) + body


def encode_text(text: str) -> bytes:
    """Length and UTF-8 of a text, as keys, names and strings are stored."""
    data = text.encode("utf-8")
    return struct.pack("<Q", len(data)) + data


def _encode_single(kind: ValueType, data: Any) -> bytes:
    if kind is ValueType.STRING:
        return encode_text(data)
    return np.array(data, NUMBERS[kind]).tobytes()


def uint32(value: int) -> GgufValue:
    """Hold an unsigned integer: what llama.cpp expects of sizes and token ids."""
    return GgufValue(ValueType.UINT32, value)


def boolean(value: bool) -> GgufValue:
    """Hold a truth value."""
    return GgufValue(ValueType.BOOL, bool(value))


def text(value: str) -> GgufValue:
    """Hold a text."""
    return GgufValue(ValueType.STRING, value)


def texts(values: Sequence[str], what: str) -> GgufValue:
    """Hold an array of texts; `what` is its key."""
    return GgufValue(ValueType.ARRAY, StringArray.of(values, what), ValueType.STRING)


def array(values: Array, element: ValueType) -> GgufValue:
    """Hold an array of numbers."""
    return GgufValue(ValueType.ARRAY, values.astype(NUMBERS[element]), element)


class Metadata(Mapping[str, GgufValue]):
    """The metadata of one file, in file order; getters check types and say what is wrong where."""

    __slots__ = ("_values", "file")

    def __init__(self, values: Mapping[str, GgufValue], file: str) -> None:
        self._values = values
        self.file = file

    def __getitem__(self, key: str) -> GgufValue:
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def integer(self, key: str) -> int | None:
        """Give an integer of any width; None when the key is absent."""
        return self._single(key, INTEGERS, "an integer")  # type: ignore[return-value]

    def flag(self, key: str) -> bool | None:
        """Give a truth value; None when the key is absent."""
        return self._single(key, frozenset({ValueType.BOOL}), "a bool")  # type: ignore[return-value]

    def text(self, key: str) -> str | None:
        """Give a text; None when the key is absent."""
        return self._single(key, frozenset({ValueType.STRING}), "a string")  # type: ignore[return-value]

    def texts(self, key: str) -> StringArray | None:
        """Give an array of texts; None when the key is absent."""
        return self._array(key, frozenset({ValueType.STRING}), "an array of strings")  # type: ignore[return-value]

    def integers(self, key: str) -> Array | None:
        """Give an array of integers; None when the key is absent."""
        return self._array(key, INTEGERS, "an array of integers")  # type: ignore[return-value]

    def floats(self, key: str) -> Array | None:
        """Give an array of floats; None when the key is absent."""
        return self._array(key, FLOATS, "an array of floats")  # type: ignore[return-value]

    def wrong(self, key: str, wanted: str) -> CheckpointError:
        """Make the error that names file, key, the type it has and the one it must have."""
        kind = self._values[key].kind
        return CheckpointError(f"{self.file}: metadata key {key!r} must be {wanted}, but is of type {kind}")

    def _single(self, key: str, kinds: frozenset[ValueType], wanted: str) -> object:
        value = self._values.get(key)
        if value is None:
            return None
        if value.type not in kinds:
            raise self.wrong(key, wanted)
        return value.data

    def _array(self, key: str, kinds: frozenset[ValueType], wanted: str) -> object:
        value = self._values.get(key)
        if value is None:
            return None
        if value.element not in kinds:
            raise self.wrong(key, wanted)
        return value.data
