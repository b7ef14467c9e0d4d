"""The bytes of a GGUF file before its weights, and where each tensor will lie; known before any value is."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from halfpint.checkpoints.gguf_header import DEFAULT_ALIGNMENT, MAGIC, GgufTensor, align
from halfpint.checkpoints.gguf_metadata import GgufValue, encode_text
from halfpint.checkpoints.gguf_types import GgmlType
from halfpint.errors import UnsupportedError

_VERSION = 3

LONGEST_NAME = 63
"""Bytes: llama.cpp refuses longer ones, though the specification allows 64."""


class GgufLayout:
    """A GGUF file that is to be written.

    Parameters
    ----------
    metadata : Mapping of str to GgufValue
        Written in this order.
    tensors : sequence of (name, shape, type)
        Rows first; written in this order.

    Attributes
    ----------
    header : bytes
        Everything before the first tensor, padding included.
    tensors : Mapping of str to GgufTensor
        With their offsets.
    size : int
        Bytes of the whole file.

    Raises
    ------
    UnsupportedError
        If a name is too long for llama.cpp.
    """

    __slots__ = ("header", "size", "tensors")

    def __init__(
        self, metadata: Mapping[str, GgufValue], tensors: Sequence[tuple[str, tuple[int, ...], GgmlType]]
    ) -> None:
        pieces = [MAGIC, struct.pack("<IQQ", _VERSION, len(tensors), len(metadata))]
        pieces += [encode_text(key) + value.encode() for key, value in metadata.items()]
        offset = 0
        relative: list[GgufTensor] = []
        for name, shape, kind in tensors:
            if len(name.encode()) > LONGEST_NAME:
                raise UnsupportedError(f"{name!r} is too long for GGUF: llama.cpp reads names of {LONGEST_NAME} bytes")
            elements = math.prod(shape)
            tensor = GgufTensor(name, shape, kind, offset, elements // kind.block_columns * kind.block_bytes)
            relative.append(tensor)
            pieces.append(encode_text(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape[::-1]))
            pieces.append(struct.pack("<IQ", kind.type_id, offset))
            offset = align(offset + tensor.nbytes, DEFAULT_ALIGNMENT)
        header = b"".join(pieces)
        self.header = header.ljust(align(len(header), DEFAULT_ALIGNMENT), b"\0")
        start = len(self.header)
        self.tensors: Mapping[str, GgufTensor] = MappingProxyType(
            {t.name: GgufTensor(t.name, t.shape, t.type, start + t.offset, t.nbytes) for t in relative}
        )
        # The last tensor is padded like the others: llama.cpp's own writer does so.
        self.size = start + offset
