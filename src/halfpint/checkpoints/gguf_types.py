"""What the numbers in a GGUF file mean: ggml's tensor types and llama.cpp's file types.

Sizes are those of ggml's block structs; numbers are those of `enum ggml_type` (ggml.h) and `enum llama_ftype`
(llama.h), which GGUF files store.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from halfpint.formats import ggml, plain
from halfpint.tensors import Format


@dataclass(frozen=True, slots=True)
class GgmlType:
    """One type that a tensor in a GGUF file can have.

    Attributes
    ----------
    type_id : int
        ggml's number.
    name : str
        ggml's name: `Q4_K`.
    block_columns : int
        Values of a block; rows hold whole blocks.
    block_bytes : int
        Bytes of a block.
    format : Format or None
        The numeric format that decodes it here; None for integers, F64, and types that are sized but not decoded.
    dtype : numpy.dtype or None
        For types whose blocks are single values.
    """

    type_id: int
    name: str
    block_columns: int
    block_bytes: int
    format: Format | None = None
    dtype: np.dtype[np.generic] | None = None

    @property
    def readable(self) -> bool:
        """Whether values come out; otherwise only the header's facts do."""
        return self.format is not None or self.dtype is not None


def _plain(type_id: int, name: str, dtype: np.dtype[np.generic], fmt: Format | None = None) -> GgmlType:
    return GgmlType(type_id, name, 1, dtype.itemsize, fmt, dtype)


_VALUES = (
    _plain(0, "F32", plain.F32.dtype, plain.F32),
    _plain(1, "F16", plain.F16.dtype, plain.F16),
    _plain(30, "BF16", plain.BF16.dtype, plain.BF16),
    _plain(24, "I8", np.dtype("<i1")),
    _plain(25, "I16", np.dtype("<i2")),
    _plain(26, "I32", np.dtype("<i4")),
    _plain(27, "I64", np.dtype("<i8")),
    _plain(28, "F64", np.dtype("<f8")),
)

_BLOCKS = tuple(
    GgmlType(fmt.type_id, fmt.name.upper(), fmt.block_columns, fmt.block_bytes, fmt) for fmt in ggml.FORMATS
)

# Sized, so that files with them can be inspected, but not decoded.
_SIZED = (
    GgmlType(16, "IQ2_XXS", 256, 66),
    GgmlType(17, "IQ2_XS", 256, 74),
    GgmlType(18, "IQ3_XXS", 256, 98),
    GgmlType(19, "IQ1_S", 256, 50),
    GgmlType(21, "IQ3_S", 256, 110),
    GgmlType(22, "IQ2_S", 256, 82),
    GgmlType(29, "IQ1_M", 256, 56),
    GgmlType(34, "TQ1_0", 256, 54),
    GgmlType(35, "TQ2_0", 256, 66),
    GgmlType(39, "MXFP4", 32, 17),
    GgmlType(40, "NVFP4", 64, 36),
    GgmlType(41, "Q1_0", 128, 18),
)

TYPES: Mapping[int, GgmlType] = MappingProxyType(
    {
        **{known.type_id: known for known in _SIZED},
        **{known.type_id: known for known in (*_VALUES, *_BLOCKS)},
    }
)
"""Every type we know, by ggml's number."""

TYPE_OF_FORMAT: Mapping[str, GgmlType] = MappingProxyType(
    {known.format.name: known for known in TYPES.values() if known.format is not None}
)
"""By name of the numeric format."""

TYPE_OF_DTYPE: Mapping[str, GgmlType] = MappingProxyType(
    {
        known.name: known
        for known in TYPES.values()
        if known.dtype is not None  # the words of safetensors for these dtypes are ggml's
    }
)
"""By the dtype word of a tensor that is copied as it is."""

READABLE = ", ".join(known.name for known in TYPES.values() if known.readable)
"""Names of the types that can be read, for messages."""

# llama.cpp shows this number and some loaders branch on it. Where it has several for one type, S is the pure file.
_FILE_TYPES: Mapping[str, tuple[int, int]] = MappingProxyType(
    {
        # type: (number when it is alone, number when others are mixed in)
        "F32": (0, 0),
        "F16": (1, 1),
        "BF16": (32, 32),
        "Q4_0": (2, 2),
        "Q4_1": (3, 3),
        "Q8_0": (7, 7),
        "Q5_0": (8, 8),
        "Q5_1": (9, 9),
        "Q2_K": (21, 10),
        "Q3_K": (11, 12),
        "Q4_K": (14, 15),
        "Q5_K": (16, 17),
        "Q6_K": (18, 18),
        "IQ4_NL": (25, 25),
        "IQ4_XS": (30, 30),
        "MXFP4": (38, 38),
        "NVFP4": (39, 39),
        "TQ1_0": (36, 36),
        "TQ2_0": (37, 37),
    }
)

GUESSED_FILE_TYPE = 1024
"""llama.cpp's number for a file that does not say."""


def file_type(tensors: Sequence[tuple[GgmlType, int]]) -> int:
    """Give llama.cpp's number for a file, from the type that most weights have.

    Parameters
    ----------
    tensors : sequence of (GgmlType, parameters)
        Tensors of two and more axes; the others are F32 in every file.
    """
    totals: dict[str, int] = {}
    for kind, parameters in tensors:
        totals[kind.name] = totals.get(kind.name, 0) + parameters
    if not totals:
        return 0
    # On a tie the name decides, so that equal inputs give equal bytes.
    dominant = max(totals, key=lambda name: (totals[name], name))
    alone, mixed = _FILE_TYPES.get(dominant, (GUESSED_FILE_TYPE, GUESSED_FILE_TYPE))
    return alone if len(totals) == 1 else mixed
