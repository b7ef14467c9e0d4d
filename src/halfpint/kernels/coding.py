"""Encode and decode at native speed where there is native code, with the bytes of the NumPy references.

`NATIVE_FORMATS` lists the formats with a native encoder; every other one is encoded by `halfpint.formats`. Which of the
two runs never changes a result: the native encoders make the same float32 operations in the same order, one block to a
vector lane, on every instruction set and with any number of threads.
"""

from __future__ import annotations

from types import MappingProxyType

import ml_dtypes
import numpy as np

from halfpint import formats
from halfpint.errors import ShapeError
from halfpint.formats import ggml
from halfpint.formats.ggml.encoding import SEARCHES, check_magnitude
from halfpint.formats.ggml.importance import check_importance
from halfpint.kernels import _native, group_codes
from halfpint.tensors import Array, FloatArray, Format, QuantizedTensor

NATIVE_FORMATS: frozenset[str] = frozenset(fmt.name for fmt in ggml.FORMATS) | {fmt.name for fmt in group_codes.FORMATS}
"""Names of the formats that are encoded and decoded by native code."""

_TARGETS = MappingProxyType(
    {
        name: (np.array(search.targets, np.float32), np.array(search.block_targets, np.float32))
        for name, search in SEARCHES.items()
    }
)


def is_native(fmt: Format) -> bool:
    """Whether native code encodes and decodes the format."""
    return fmt.name in NATIVE_FORMATS


def explain(fmt: Format) -> str:
    """Say what encodes and decodes a format here, such as `q4_k: native, avx512`."""
    if is_native(fmt):
        return f"{fmt.name}: native, {_native.encode_isa()}"
    return f"{fmt.name}: NumPy"


def encode(weight: Array, fmt: Format, importance: Array | None = None) -> QuantizedTensor:
    """Put a weight into a format; the bytes are those of `halfpint.formats.encode`.

    Parameters
    ----------
    weight : float32, bfloat16 or float16 [rows, columns]
        Finite values; 16-bit floats are widened on the way, without a copy of the whole.
    fmt : Format
        The target format.
    importance : float32 [columns] or [rows, columns], optional
        Non-negative weights of the squared error. None means all one.

    Raises
    ------
    ShapeError
        If the format cannot hold this shape or magnitude, or the importance has another shape.
    NonFiniteError
        If a weight is NaN or infinite, or an importance is, or is negative.
    """
    if not isinstance(fmt, ggml.GgmlBlocks | group_codes.GroupCodes):
        return formats.encode(weight.astype(np.float32, copy=False), fmt, importance)
    rows, columns = weight.shape
    refusal = fmt.refusal(rows, columns)
    if refusal is not None:
        raise ShapeError(refusal)
    words, halves = _words(weight)
    largest = _native.largest_magnitude(words, halves)
    if not np.isfinite(largest):
        formats.check_finite(weight.astype(np.float32, copy=False))
    if isinstance(fmt, group_codes.GroupCodes):
        return group_codes.encode(words, halves, largest, fmt, importance)
    check_magnitude(largest, fmt)
    checked = check_importance(importance, (rows, columns))
    blocks = np.empty((rows, columns // fmt.block_columns, fmt.block_bytes), np.uint8)
    per_row = None if checked is None else checked.reshape(-1, columns)
    _native.encode_blocks(fmt.type_id, words, halves, per_row, _TARGETS[fmt.name], blocks)
    return QuantizedTensor(fmt, (rows, columns), MappingProxyType({"blocks": blocks}))


def decode(quantized: QuantizedTensor) -> FloatArray:
    """Give back the float32 [rows, columns] weight, with the bits of `halfpint.formats.decode`."""
    fmt = quantized.format
    if isinstance(fmt, group_codes.GroupCodes):
        return group_codes.decode(quantized)
    if not isinstance(fmt, ggml.GgmlBlocks):
        return formats.decode(quantized)
    weight = np.empty(quantized.shape, np.float32)
    _native.decode_blocks(fmt.type_id, np.ascontiguousarray(quantized.parts["blocks"]), weight)
    return weight


def _words(weight: Array) -> tuple[Array, bool]:
    """Contiguous float32, or 16-bit words of bfloat16 or, if the flag is set, of halves."""
    if weight.dtype in (ml_dtypes.bfloat16, np.float16):
        return np.ascontiguousarray(weight).view(np.uint16), weight.dtype == np.float16
    return np.ascontiguousarray(weight, np.float32), False


def to_float32(value: Array | QuantizedTensor) -> FloatArray:
    """Decode a tensor that a checkpoint holds into float32; no copy is made of one that is float32 already."""
    if isinstance(value, QuantizedTensor):
        return decode(value)
    return value.astype(np.float32, copy=False)
