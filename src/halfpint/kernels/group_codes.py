"""Native code for formats whose codes stand one to a byte, in groups that share a scale.

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

GroupCodes = Affine | Levels | Float8
"""The formats that have native code here."""

FORMATS: tuple[GroupCodes, ...] = (*affine.FORMATS, *levels.FORMATS, *float8.FORMATS)
"""All of them."""

# Numbers of CodeKind, GroupScale and StartKind in native/isa/groups.hpp.
_INTEGERS, _NF4, _E2M1, _E4M3 = range(4)
_SCALE_KINDS: Mapping[str, int] = MappingProxyType({"fp16": 0, "bf16": 1, "fp32": 2, "e8m0": 3, "shared_e4m3": 4})
_PEAK, _RANGE, _TOP, _POWER = range(4)


def encode(words: Array, halves: bool, largest: float, fmt: GroupCodes, importance: Array | None) -> QuantizedTensor:
    """Put a finite weight into codes, as `halfpint.formats.encode` does.

    Parameters
    ----------
    words : float32 or uint16 [rows, columns], contiguous
        The weight; 16-bit words are halves if the flag is set, else bfloat16.
    halves : bool
        What 16-bit words are.
    largest : float
        The largest magnitude in the weight.
    fmt : GroupCodes
        The target format, which accepts this shape.
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
    # An asymmetric group may span twice the largest magnitude.
    if isinstance(fmt, Affine) and 2 * largest > affine.reach(fmt):
        affine.check_range(_widened(words, halves), fmt, checked)
    parts = {name: np.empty(part.shape, part.dtype) for name, part in fmt.parts(rows, columns).items()}
    shared = 1.0
    if "global_scale" in parts:
        parts["global_scale"][0] = levels.outer_scale(largest)
        shared = float(parts["global_scale"][0])
    scales = parts["scales"]
    _native.encode_groups(
        _search(fmt, columns if _whole_rows(fmt) else 0),
        words,
        halves,
        None if checked is None else checked.reshape(-1, columns),
        shared,
        parts["codes"].view(np.uint8),
        scales.view(np.dtype(f"u{scales.itemsize}")),
        parts.get("zero_points"),
    )
    return QuantizedTensor(fmt, (rows, columns), MappingProxyType(parts))


def decode(quantized: QuantizedTensor) -> FloatArray:
    """Give back the float32 [rows, columns] weight, with the bits of `halfpint.formats.decode`."""
    fmt, parts = quantized.format, quantized.parts
    assert isinstance(fmt, GroupCodes)
    rows, columns = quantized.shape
    scales = levels.factors(fmt, parts) if isinstance(fmt, Levels) else parts["scales"]
    zero_points = parts.get("zero_points")
    weight = np.empty((rows, columns), np.float32)
    _native.decode_codes(
        np.ascontiguousarray(parts["codes"]).view(np.uint8),
        _values(fmt),
        np.ascontiguousarray(scales, np.float32),
        None if zero_points is None else np.ascontiguousarray(zero_points, np.float32),
        _group(fmt, columns),
        weight,
    )
    return weight


def _whole_rows(fmt: GroupCodes) -> bool:
    return not (fmt.block if isinstance(fmt, Float8) else fmt.group_size)


def _group(fmt: GroupCodes, columns: int) -> tuple[int, int]:
    """Rows and columns that share a scale."""
    if _whole_rows(fmt):
        return 1, columns
    return (fmt.block, fmt.block) if isinstance(fmt, Float8) else (1, fmt.group_size)


@functools.cache
def _search(fmt: GroupCodes, columns: int) -> _native.GroupSearch:
    """Describe the search of a format; `columns` counts for whole rows only."""
    scale_name = "fp32"
    smallest, largest = search.scale_limits(np.dtype(np.float32))
    coded, start = (_INTEGERS, 0.0, 0.0), _TOP
    if isinstance(fmt, Affine):
        grid = affine.search_grid(fmt)
        coded, start = (_INTEGERS, float(fmt.lowest), float(fmt.highest)), _PEAK if fmt.symmetric else _RANGE
        scale_name, (smallest, largest) = fmt.scale_dtype, search.scale_limits(fmt.scale_type)
    elif isinstance(fmt, Float8):
        grid = float8.SEARCH_GRID
        coded = (_E4M3, 0.0, 0.0)
    else:
        grid = levels.search_grid(fmt)
        coded = (_NF4 if fmt.name == "nf4" else _E2M1, 0.0, 0.0)
        if fmt.name == "mxfp4":
            scale_name, start = "e8m0", _POWER
            smallest, largest = levels.E8M0_SMALLEST, levels.E8M0_LARGEST
        elif fmt.name == "nvfp4":
            scale_name, smallest, largest = "shared_e4m3", levels.E4M3_SMALLEST, levels.E4M3_LARGEST
    steps = [(index, factor, offset) for index, around in enumerate(grid.rounds) for factor, offset in around]
    return _native.GroupSearch(
        _group(fmt, columns),
        coded,
        (_SCALE_KINDS[scale_name], float(smallest), float(largest)),
        start,
        np.array(grid.starts, np.float32).reshape(-1, 2),
        np.array(steps, np.float32).reshape(-1, 3),
        grid.refits,
    )


@functools.cache
def _values(fmt: GroupCodes) -> FloatArray:
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
