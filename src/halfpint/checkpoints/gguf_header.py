"""The strict reader of GGUF headers: everything that can be wrong with one is told before a weight is touched.

Layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md; bounds are at least as strict as llama.cpp's.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from halfpint.checkpoints.gguf_cursor import Cursor
from halfpint.checkpoints.gguf_keys import check_known_keys
from halfpint.checkpoints.gguf_metadata import NUMBERS, GgufValue, Metadata, ValueType
from halfpint.checkpoints.gguf_types import READABLE, TYPES, GgmlType
from halfpint.checkpoints.regular_file import RegularFile
from halfpint.errors import CheckpointError, UnsupportedError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32

MOST_KEYS = 65_536
"""Metadata keys; real files have below a hundred."""

MOST_TENSORS = 65_536
"""Tensors of one file; the largest mixtures of experts have a few thousand."""

_LONGEST_KEY = 65_535
_LONGEST_NAME = 64
_LARGEST_ALIGNMENT = 1 << 20
_MOST_ELEMENTS = (1 << 63) - 1
_SMALLEST_KEY = 8 + 1 + 4 + 1
_SMALLEST_TENSOR = 8 + 1 + 4 + 8 + 4 + 8
_TYPE_AND_OFFSET = struct.Struct("<IQ")


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """One tensor of a file.

    Attributes
    ----------
    name : str
        In the file.
    shape : tuple of int
        Rows first: the file's dimensions, reversed.
    type : GgmlType
        Of its values.
    offset : int
        Byte in the file where its data begins.
    nbytes : int
        Of its data.
    """

    name: str
    shape: tuple[int, ...]
    type: GgmlType
    offset: int
    nbytes: int

    @property
    def row_bytes(self) -> int:
        """Bytes of one row: of the last axis."""
        return self.shape[-1] // self.type.block_columns * self.type.block_bytes


@dataclass(frozen=True, slots=True)
class Header:
    """What one file says before its weights.

    Attributes
    ----------
    version : int
        2 or 3.
    metadata : Metadata
        In file order.
    tensors : Mapping of str to GgufTensor
        In file order.
    alignment : int
        Tensors begin at multiples of this.
    data_start : int
        Where the header, with its padding, ends.
    """

    version: int
    metadata: Metadata
    tensors: Mapping[str, GgufTensor]
    alignment: int
    data_start: int


def align(position: int, alignment: int) -> int:
    """Round a position up to the next multiple."""
    return -(-position // alignment) * alignment


def read_header(file: RegularFile) -> Header:
    """Read and check the header of an open file.

    Raises
    ------
    CheckpointError
        If anything in it contradicts the layout, itself, or the size of the file; naming file and byte.
    UnsupportedError
        If it is of another version or byte order, or holds a tensor of a type we do not know.
    """
    cursor = Cursor(file)
    version, tensor_count, key_count = _read_preamble(cursor)
    metadata = Metadata(MappingProxyType(_read_keys(cursor, key_count)), str(file.path))
    check_known_keys(metadata)
    alignment = _alignment(metadata)
    tensors = _read_tensors(cursor, tensor_count, alignment)
    data_start = align(cursor.position, alignment)
    placed = {name: GgufTensor(name, t.shape, t.type, t.offset + data_start, t.nbytes) for name, t in tensors.items()}
    _check_layout(file, tuple(placed.values()), data_start, alignment)
    return Header(version, metadata, MappingProxyType(placed), alignment, data_start)


def _read_preamble(cursor: Cursor) -> tuple[int, int, int]:
    magic = cursor.raw(4, "the magic number")
    if magic == MAGIC[::-1]:
        raise UnsupportedError(cursor.fail("the file is of the other byte order; GGUF is read little endian").args[0])
    if magic != MAGIC:
        raise cursor.fail(f"the file begins with {magic!r}, not with 'GGUF', so it is no GGUF file")
    version = cursor.uint32("the version")
    if version not in VERSIONS:
        raise _wrong_version(cursor, version)
    tensors = cursor.count(_SMALLEST_TENSOR, MOST_TENSORS, "the number of tensors")
    keys = cursor.count(_SMALLEST_KEY, MOST_KEYS, "the number of metadata keys")
    return version, tensors, keys


def _wrong_version(cursor: Cursor, version: int) -> Exception:
    if version and version & 0xFFFF == 0:
        return UnsupportedError(cursor.fail("the file is big endian; GGUF is read little endian").args[0])
    if version == 1 or 3 < version < 100:
        return UnsupportedError(
            cursor.fail(f"GGUF version {version} is not read, only 2 and 3; convert the model again").args[0]
        )
    return cursor.fail(f"{version} is no GGUF version; the file is damaged")


def _read_keys(cursor: Cursor, count: int) -> dict[str, GgufValue]:
    values: dict[str, GgufValue] = {}
    for index in range(count):
        key = cursor.text(_LONGEST_KEY, f"metadata key {index}")
        if not key or "\0" in key:
            raise cursor.fail(f"metadata key {index} is empty or holds a NUL")
        if key in values:
            raise cursor.fail(f"metadata key {key[:80]!r} appears twice")
        values[key] = _read_value(cursor, f"metadata key {key[:80]!r}")
    return values


def _value_type(cursor: Cursor, what: str) -> ValueType:
    number = cursor.uint32(f"type of {what}")
    try:
        return ValueType(number)
    except ValueError:
        raise cursor.fail(f"{what} is of type {number}, which does not exist") from None


def _read_value(cursor: Cursor, what: str) -> GgufValue:
    kind = _value_type(cursor, what)
    if kind is ValueType.ARRAY:
        return _read_array(cursor, what)
    if kind is ValueType.STRING:
        return GgufValue(kind, cursor.text(cursor.remaining, what))
    return GgufValue(kind, _read_number(cursor, kind, what))


def _read_number(cursor: Cursor, kind: ValueType, what: str) -> int | float | bool:
    dtype = NUMBERS[kind]
    value: Any = np.frombuffer(cursor.raw(dtype.itemsize, what), dtype)[0].item()
    if kind is not ValueType.BOOL:
        return value  # type: ignore[no-any-return]
    if value > 1:
        raise cursor.fail(f"{what} is a bool of {value}; 0 and 1 are the only ones")
    return bool(value)


def _read_array(cursor: Cursor, what: str) -> GgufValue:
    element = _value_type(cursor, f"elements of {what}")
    if element is ValueType.ARRAY:
        raise cursor.fail(f"{what} is an array of arrays, which no engine reads")
    if element is ValueType.STRING:
        count = cursor.count(8, _MOST_ELEMENTS, f"the length of {what}")
        return GgufValue(ValueType.ARRAY, cursor.strings(count, what), element)
    dtype = NUMBERS[element]
    count = cursor.count(dtype.itemsize, _MOST_ELEMENTS, f"the length of {what}")
    values = np.frombuffer(cursor.raw(count * dtype.itemsize, what), dtype)
    if element is ValueType.BOOL and count and values.max() > 1:
        raise cursor.fail(f"{what} holds a bool of {values.max()}; 0 and 1 are the only ones")
    return GgufValue(ValueType.ARRAY, values, element)


def _alignment(metadata: Metadata) -> int:
    value = metadata.get("general.alignment")
    if value is None:
        return DEFAULT_ALIGNMENT
    if value.type is not ValueType.UINT32:  # llama.cpp takes no other width here
        raise metadata.wrong("general.alignment", "a uint32")
    alignment = int(value.data)
    if not 8 <= alignment <= _LARGEST_ALIGNMENT or alignment & (alignment - 1):
        raise CheckpointError(
            f"{metadata.file}: general.alignment is {alignment}; it must be a power of two from 8 to "
            f"{_LARGEST_ALIGNMENT}"
        )
    return alignment


def _read_tensors(cursor: Cursor, count: int, alignment: int) -> dict[str, GgufTensor]:
    tensors: dict[str, GgufTensor] = {}
    for index in range(count):
        name = cursor.text(_LONGEST_NAME, f"name of tensor {index}")
        if not name or "\0" in name:
            raise cursor.fail(f"the name of tensor {index} is empty or holds a NUL")
        if name in tensors:
            raise cursor.fail(f"tensor {name!r} appears twice")
        tensors[name] = _read_tensor(cursor, name, alignment)
    return tensors


def _read_tensor(cursor: Cursor, name: str, alignment: int) -> GgufTensor:
    what = f"tensor {name!r}"
    axes = cursor.uint32(f"dimensions of {what}")
    if not 1 <= axes <= 4:
        raise cursor.fail(f"{what} has {axes} dimensions; 1 to 4 are possible")
    shape = tuple(cursor.unpack(struct.Struct(f"<{axes}Q"), f"shape of {what}"))[::-1]
    type_id, offset = cursor.unpack(_TYPE_AND_OFFSET, f"type of {what}")
    known = TYPES.get(type_id)
    if known is None:
        raise UnsupportedError(
            cursor.fail(f"{what} is of ggml type {type_id}, which is unknown; read are {READABLE}").args[0]
        )
    elements = math.prod(shape)
    if elements > _MOST_ELEMENTS or max(shape) > _MOST_ELEMENTS:
        raise cursor.fail(f"{what} has {elements} elements by its shape {list(shape)}; the file is damaged or hostile")
    if shape[-1] % known.block_columns:
        raise cursor.fail(
            f"{what} has rows of {shape[-1]}, which do not divide into {known.name} blocks of {known.block_columns}"
        )
    if offset % alignment:
        raise cursor.fail(f"{what} begins at {offset} of the data, not at a multiple of {alignment}")
    return GgufTensor(name, shape, known, offset, elements // known.block_columns * known.block_bytes)


def _check_layout(file: RegularFile, tensors: Sequence[GgufTensor], data_start: int, alignment: int) -> None:
    """Tensors must lie one after the other, inside the file, with nothing but padding between and after."""
    end = data_start
    previous = "the header"
    for tensor in sorted(tensors, key=lambda t: (t.offset, t.nbytes)):
        what = f"{file.path}: tensor {tensor.name!r}"
        if tensor.offset < end:
            raise CheckpointError(f"{what} begins at byte {tensor.offset}, inside {previous}, which ends at {end}")
        if tensor.offset > align(end, alignment):
            raise CheckpointError(
                f"{what} begins at byte {tensor.offset}, {tensor.offset - end} bytes after {previous}; "
                "only padding may lie between tensors"
            )
        end = tensor.offset + tensor.nbytes
        previous = f"tensor {tensor.name!r}"
        if end > file.size:
            raise CheckpointError(f"{what} ends at byte {end}, but the file has {file.size}; it is cut short")
    if tensors and file.size > end + alignment:
        raise CheckpointError(
            f"{file.path}: {file.size - end} bytes follow the last tensor; the file is not what its header says"
        )
