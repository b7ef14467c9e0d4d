"""Integers of 2 to 8 bits in groups: one scale, and for the asymmetric kind one zero point, per group of columns.

This is the numeric content of compressed-tensors' pack-quantized, of GPTQ and AWQ; each stores the same codes in
words of its own, which is a container's affair.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import ml_dtypes
import numpy as np

from halfpint.errors import ShapeError
from halfpint.formats import search
from halfpint.tensors import Array, FloatArray, PartSpec, QuantizedTensor

ScaleDtype = Literal["fp16", "bf16", "fp32"]

_SCALE_DTYPES: Mapping[str, np.dtype[Any]] = {
    "fp16": np.dtype(np.float16),
    "bf16": np.dtype(ml_dtypes.bfloat16),
    "fp32": np.dtype(np.float32),
}


@dataclass(frozen=True, slots=True)
class Affine:
    """Integer codes with one scale, and if not symmetric one zero point, per group of columns.

    Attributes
    ----------
    bits : int
        2 to 8.
    group_size : int
        Columns that share a scale; 0 for the whole row. The last group of a row may be short.
    symmetric : bool
        Codes are signed and zero is code 0; else codes are unsigned and each group has a zero point.
    scale_dtype : str
        `fp16`, `bf16` or `fp32`.
    """

    bits: int
    group_size: int
    symmetric: bool = True
    scale_dtype: ScaleDtype = "fp16"

    @property
    def name(self) -> str:
        """`int4-g128`, `int4-g128-asym`, `int8-bf16` (whole rows) and so on."""
        group = f"-g{self.group_size}" if self.group_size else ""
        kind = "" if self.symmetric else "-asym"
        scale = "" if self.scale_dtype == "fp16" else f"-{self.scale_dtype}"
        return f"int{self.bits}{group}{kind}{scale}"

    @property
    def scale_type(self) -> np.dtype[Any]:
        """NumPy dtype of the scales."""
        return _SCALE_DTYPES[self.scale_dtype]

    @property
    def lowest(self) -> int:
        """The smallest code."""
        return -(1 << (self.bits - 1)) if self.symmetric else 0

    @property
    def highest(self) -> int:
        """The largest code."""
        return self.lowest + (1 << self.bits) - 1

    @property
    def bits_per_weight(self) -> float:
        """Codes, and the scale and zero point shared by a group; for whole rows, those of a row of 4096."""
        group = self.group_size or 4096
        return self.bits + (8 * self.scale_type.itemsize + (0 if self.symmetric else self.bits)) / group

    @property
    def row_multiple(self) -> int:
        """Rows are independent."""
        return 1

    def groups(self, columns: int) -> int:
        """Count the groups of a row, the short one included."""
        return -(-columns // self.group_size) if self.group_size else 1

    def refusal(self, rows: int, columns: int) -> str | None:
        """Every shape is accepted: a short last group has a scale of its own. Empty tensors are not weights."""
        if rows < 1 or columns < 1:
            return f"a tensor of shape [{rows}, {columns}] has no weights to quantize; keep it as it is"
        return None

    def parts(self, rows: int, columns: int) -> Mapping[str, PartSpec]:
        """`codes` [rows, columns], `scales` [rows, groups] and, when asymmetric, `zero_points` [rows, groups]."""
        groups = self.groups(columns)
        codes = PartSpec((rows, columns), np.dtype(np.int8 if self.symmetric else np.uint8))
        parts = {"codes": codes, "scales": PartSpec((rows, groups), self.scale_type)}
        if not self.symmetric:
            parts["zero_points"] = PartSpec((rows, groups), np.dtype(np.uint8))
        return parts

    def stored_bytes(self, rows: int, columns: int) -> int:
        """Codes packed tightly within a row, zero points within a column, as compressed-tensors packs them."""
        groups = self.groups(columns)
        codes = rows * -(-columns * self.bits // 32) * 4
        zero_points = 0 if self.symmetric else -(-rows * self.bits // 32) * 4 * groups
        return codes + rows * groups * self.scale_type.itemsize + zero_points


GROUP_SIZES = (16, 32, 64, 128, 256, 0)

FORMATS = tuple(
    Affine(bits, group_size, symmetric, scale_dtype)
    for bits in range(2, 9)
    for group_size in GROUP_SIZES
    for symmetric in (True, False)
    for scale_dtype in ("fp16", "bf16", "fp32")
)

# The grids on which scales are searched: (smallest, step) of a geometric row of parts of the range. For the symmetric
# kind that range is the one in which the largest magnitude takes the lowest code, which reaches furthest, or with the
# other sign nearly the highest. With few bits or long groups the tail wants to be clipped hard; with 8 bits hardly at
# all, and what a denser grid finds is luck in the rounding. Measured by benchmarks/scale_search.py against 1000 scales
# a group, over five kinds of weights in groups of 32 to 1024: the mean excess of squared error is at most 1 % up to 5
# bits, 1.6 % at 6 and 5.4 % at 8 bits in groups of 32.
_SYMMETRIC_GRID = {
    2: (0.12, 1.29),
    3: (0.15, 1.225),
    4: (0.3, 1.134),
    5: (0.45, 1.09),
    6: (0.7, 1.046),
    7: (0.86, 1.0265),
    8: (0.95, 1.0167),
}
_SYMMETRIC_COUNT = 12
_ASYMMETRIC_GRID = {
    2: (0.25, 1.34),
    3: (0.35, 1.253),
    4: (0.45, 1.191),
    5: (0.62, 1.117),
    6: (0.78, 1.067),
    7: (0.88, 1.0418),
    8: (0.93, 1.0303),
}
_ASYMMETRIC_COUNT = 6
_REFITS = 2

_LARGEST_WEIGHT = 2.0**126

# Rounds of steps around the best so far: (fraction of the grid's spacing, offset of the zero point).
_Steps = tuple[tuple[tuple[float, int], ...], ...]
_SYMMETRIC_STEPS: _Steps = (((-0.6, 0), (-0.3, 0), (0.3, 0), (0.6, 0)),)
_ASYMMETRIC_STEPS: _Steps = (
    ((-0.33, -1), (-0.33, 0), (-0.33, 1), (0.0, -1), (0.0, 1), (0.33, -1), (0.33, 0), (0.33, 1)),
    ((0.0, -1), (0.0, 1), (-0.15, 0), (0.15, 0)),
)


def search_grid(fmt: Affine) -> search.SearchGrid:
    """Give the scales that `encode` tries for a format; rounding to the full range is the first of them.

    Starts are (divisor of the value of largest magnitude, 0) of symmetric formats, and of asymmetric ones parts of the
    lower and the upper end of the range that the scale spans.
    """
    zero, one = np.float32(0), np.float32(1)
    if fmt.symmetric:
        smallest, step = _SYMMETRIC_GRID[fmt.bits]
        steps = _SYMMETRIC_STEPS
        ratios = search.geometric(smallest, step, _SYMMETRIC_COUNT)
        lowest = np.float32(fmt.lowest)
        divisors = [np.float32(fmt.highest)]
        divisors += [np.float32(divisor) for ratio in ratios for divisor in (lowest / ratio, -lowest / ratio)]
        starts = tuple((divisor, zero) for divisor in divisors)
    else:
        smallest, step = _ASYMMETRIC_GRID[fmt.bits]
        steps = _ASYMMETRIC_STEPS
        ratios = search.geometric(smallest, step, _ASYMMETRIC_COUNT)
        starts = ((one, one), *((lower, upper) for lower in ratios for upper in ratios))
    rounds = tuple(
        tuple((np.float32(1 + part * (step - 1)), np.float32(offset)) for part, offset in around) for around in steps
    )
    return search.SearchGrid(starts, rounds, _REFITS)


def encode(weight: FloatArray, fmt: Affine, importance: Array | None) -> Mapping[str, Array]:
    """Search the scales with the smallest weighted squared error, then take the nearest codes.

    Parameters
    ----------
    weight : float32 [rows, columns]
    fmt : Affine
    importance : float32 [columns] or [rows, columns], optional
        Weights of the squared error.

    Returns
    -------
    Mapping of str to Array
        As `fmt.parts` says. No element is further from its decoded value than half a step, unless it lies beyond
        the last code: the search clips where that makes the group's weighted error smaller.

    Raises
    ------
    ShapeError
        If a scale would overflow its dtype.

    Notes
    -----
    A weight of 0 is exact: symmetric groups have no offset, and the range of an asymmetric group includes 0.
    A group of zeros gets scale 1. Symmetric scales may be negative: there is one more code below zero than above,
    and it serves whichever side the weights need it on. In groups of 128 that saves 12 % of the squared error of
    Gaussian weights at 2 bits, 8 % at 4, and nothing at 8 (benchmarks/scale_search.py).
    """
    rows, columns = weight.shape
    size = fmt.group_size or columns
    full = search.spread_importance(importance, (rows, columns))
    x = search.to_groups(weight, size)
    groups = search.prepare(x, search.to_groups(full, size))
    _check_groups(groups, fmt)
    best = _fit_symmetric(groups, fmt) if fmt.symmetric else _fit_asymmetric(groups, fmt)
    codes = _quantizer(fmt)(groups.scaled(x, best.scale), best.zero) + best.zero
    parts: dict[str, Array] = {
        "codes": search.from_groups(codes.astype(np.int8 if fmt.symmetric else np.uint8), rows, columns),
        "scales": (best.scale * groups.unit).astype(fmt.scale_type).reshape(rows, -1),
    }
    if not fmt.symmetric:
        parts["zero_points"] = best.zero.astype(np.uint8).reshape(rows, -1)
    return parts


def decode(quantized: QuantizedTensor) -> FloatArray:
    """(codes - zero point) * scale, in float32."""
    fmt = quantized.format
    assert isinstance(fmt, Affine)
    _, columns = quantized.shape
    size = fmt.group_size or columns
    codes = quantized.parts["codes"].astype(np.float32)
    # One scale a column, by repeating each group's: the last group may be short.
    if not fmt.symmetric:
        codes -= np.repeat(quantized.parts["zero_points"].astype(np.float32), size, axis=1)[:, :columns]
    codes *= np.repeat(quantized.parts["scales"].astype(np.float32), size, axis=1)[:, :columns]
    return codes


def check_range(weight: FloatArray, fmt: Affine, importance: Array | None) -> None:
    """Refuse a weight [rows, columns] that `encode` would refuse: one that the largest finite scale does not reach.

    Raises
    ------
    ShapeError
        Saying what to use.
    """
    size = fmt.group_size or weight.shape[1]
    full = search.spread_importance(importance, (weight.shape[0], weight.shape[1]))
    _check_groups(search.prepare(search.to_groups(weight, size), search.to_groups(full, size)), fmt)


def _refusal(magnitude: float, fmt: Affine) -> str:
    wider = Affine(fmt.bits, fmt.group_size, fmt.symmetric, "bf16").name
    advice = f"use {wider}, or keep" if fmt.scale_dtype == "fp16" else "keep"
    return f"a weight of magnitude {magnitude:g} needs a scale beyond {fmt.scale_dtype}; {advice} this tensor in bf16"


def reach(fmt: Affine) -> float:
    """Give the largest magnitude, or span if asymmetric, that has a scale; decoding it stays finite."""
    return min(float(search.scale_limits(fmt.scale_type)[1]) * fmt.highest, _LARGEST_WEIGHT)


def _check_groups(groups: search.Groups, fmt: Affine) -> None:
    high = groups.x.max(axis=0, initial=0).astype(np.float64) * groups.unit
    low = groups.x.min(axis=0, initial=0).astype(np.float64) * groups.unit
    span = np.maximum(high, -low) if fmt.symmetric else high - low
    if (span > reach(fmt)).any():
        raise ShapeError(_refusal(float(np.maximum(high, -low).max()), fmt))


def _quantizer(fmt: Affine) -> search.Quantize:
    low, high = np.float32(fmt.lowest), np.float32(fmt.highest)

    def quantize(scaled: FloatArray, zero: FloatArray) -> FloatArray:
        levels: FloatArray = np.clip(np.rint(scaled), low - zero, high - zero)
        return levels

    return quantize


def _fit_symmetric(groups: search.Groups, fmt: Affine) -> search.Best:
    store = search.storable(fmt.scale_type, groups.unit)
    peaks = groups.peaks

    def start(divisor: np.float32, _: np.float32) -> tuple[FloatArray, FloatArray]:
        return store(peaks / divisor), np.zeros_like(peaks)

    best = search.Best(groups, _quantizer(fmt))
    search.follow(best, search_grid(fmt), start, store)
    return best


def _fit_asymmetric(groups: search.Groups, fmt: Affine) -> search.Best:
    high = np.float32(fmt.highest)
    store = search.storable(fmt.scale_type, groups.unit)
    minimum, maximum = groups.x.min(axis=0, initial=0), groups.x.max(axis=0, initial=0)

    def start(lower: np.float32, upper: np.float32) -> tuple[FloatArray, FloatArray]:
        bottom = minimum * lower
        scale = store((maximum * upper - bottom) / high)
        return scale, np.rint(np.clip(-bottom / scale, np.float32(0), high))

    best = search.Best(groups, _quantizer(fmt))
    search.follow(best, search_grid(fmt), start, store, fmt.highest)
    return best
