"""Native code for formats whose codes stand one to a byte: encoding of integers in groups, decoding of all of them.

The bytes are those of `halfpint.formats`: the same float32 operations in the same order, one group to a vector lane,
on every instruction set and with any number of threads.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from types import MappingProxyType

import ml_dtypes
import numpy as np

from halfpint.formats import affine, float8, levels, search
from halfpint.formats.affine import Affine
from halfpint.formats.float8 import Float8
from halfpint.formats.ggml.importance import check_importance
from halfpint.formats.levels import Levels
from halfpint.kernels import _native
from halfpint.tensors import Array, FloatArray, QuantizedTensor

PlainCodes = Affine | Levels | Float8
"""The formats that `decode` here knows."""

_SCALE_KINDS: Mapping[str, int] = MappingProxyType({"fp16": 0, "bf16": 1, "fp32": 2})


def encode(words: Array, halves: bool, largest: float, fmt: Affine, importance: Array | None) -> QuantizedTensor:
    """Put a finite weight into integer codes, as `halfpint.formats.affine.encode` does.

    Parameters
    ----------
    words : float32 or uint16 [rows, columns], contiguous
        The weight; 16-bit words are halves if the flag is set, else bfloat16.
    halves : bool
        What 16-bit words are.
    largest : float
        The largest magnitude in the weight.
    fmt : Affine
        The target format.
    importance : float32 [columns] or [rows, columns], optional
        Non-negative weights of the squared error.

    Raises
    ------
    ShapeError
        If a scale would overflow its dtype, or the importance has another shape.
    NonFiniteError
        If an importance is not finite, or negative.
    """
    rows, columns = words.shape
    checked = check_importance(importance, (rows, columns))
    if 2 * largest > affine.reach(fmt):  # an asymmetric group may span twice the largest magnitude
        affine.check_range(_widened(words, halves), fmt, checked)
    parts = {name: np.empty(part.shape, part.dtype) for name, part in fmt.parts(rows, columns).items()}
    scales = parts["scales"]
    _native.encode_affine(
        _search(fmt, fmt.group_size or columns),
        words,
        halves,
        None if checked is None else checked.reshape(-1, columns),
        parts["codes"].view(np.uint8),
        scales if scales.itemsize == 4 else scales.view(np.uint16),
        parts.get("zero_points"),
    )
    return QuantizedTensor(fmt, (rows, columns), MappingProxyType(parts))


def decode(quantized: QuantizedTensor) -> FloatArray:
    """Give back the float32 [rows, columns] weight, with the bits of `halfpint.formats.decode`."""
    fmt, parts = quantized.format, quantized.parts
    assert isinstance(fmt, PlainCodes)
    rows, columns = quantized.shape
    shared = (1, columns)
    if isinstance(fmt, Levels):
        scales, shared = levels.factors(fmt, parts), (1, fmt.group_size)
    else:
        scales = parts["scales"].astype(np.float32)
    if isinstance(fmt, Affine):
        shared = (1, fmt.group_size or columns)
    elif isinstance(fmt, Float8) and fmt.block:
        shared = (fmt.block, fmt.block)
    zero_points = parts.get("zero_points")
    weight = np.empty((rows, columns), np.float32)
    _native.decode_codes(
        np.ascontiguousarray(parts["codes"]).view(np.uint8),
        _values(fmt),
        np.ascontiguousarray(scales),
        None if zero_points is None else np.ascontiguousarray(zero_points, np.float32),
        shared,
        weight,
    )
    return weight


@functools.cache
def _search(fmt: Affine, group_columns: int) -> _native.AffineSearch:
    grid = affine.search_grid(fmt)
    steps = [(index, factor, offset) for index, around in enumerate(grid.rounds) for factor, offset in around]
    smallest, largest = search.scale_limits(fmt.scale_type)
    return _native.AffineSearch(
        group_columns,
        fmt.symmetric,
        (float(fmt.lowest), float(fmt.highest)),
        _SCALE_KINDS[fmt.scale_dtype],
        (float(smallest), float(largest)),
        np.array(grid.starts, np.float32),
        np.array(steps, np.float32),
        grid.refits,
    )


@functools.cache
def _values(fmt: PlainCodes) -> FloatArray:
    """What each of the 256 bytes stands for, before zero point and scale; float32 [256]."""
    codes: Array = np.arange(256, dtype=np.uint8)
    if isinstance(fmt, Levels):
        return fmt.table[(codes & 15).astype(np.intp)]
    if isinstance(fmt, Float8):
        codes = codes.view(float8.CODES)
    elif fmt.symmetric:
        codes = codes.view(np.int8)
    values: FloatArray = codes.astype(np.float32)
    return values


def _widened(words: Array, halves: bool) -> FloatArray:
    if words.dtype == np.float32:
        return words
    widened: FloatArray = words.view(np.float16 if halves else ml_dtypes.bfloat16).astype(np.float32)
    return widened
