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

# How far the largest magnitude may be cut off, as a factor, and how many starts lie between: with few bits a
# Gaussian group wants its tail clipped hard, with 8 bits hardly at all.
_CLIP = {
    2: (0.45, 1.1, 24),
    3: (0.55, 1.1, 20),
    4: (0.65, 1.05, 16),
    5: (0.75, 1.03, 12),
    6: (0.85, 1.02, 10),
}
_CLIP_WIDE = (0.95, 1.01, 7)


def encode(weight: FloatArray, fmt: Affine, importance: Array | None) -> Mapping[str, Array]:
    """Choose scales by weighted least squares over several clipping ranges, then take the nearest codes.

    Parameters
    ----------
    weight : float32 [rows, columns]
    fmt : Affine
    importance : float32 [columns] or [rows, columns], optional
        Weights of the squared error.

    Returns
    -------
    Mapping of str to Array
        As `fmt.parts` says. No element is further from its decoded value than half a step, unless the search
        found that clipping it makes the group's weighted error smaller.

    Raises
    ------
    ShapeError
        If a scale would overflow its dtype.

    Notes
    -----
    A weight of 0 is exact: symmetric groups have no offset, and the range of an asymmetric group includes 0.
    A group of zeros gets scale 1.
    """
    rows, columns = weight.shape
    size = fmt.group_size or columns
    x = search.to_groups(weight, size)
    h = search.importance_groups(importance, (rows, columns), size)
    _check_range(x, fmt)
    if fmt.symmetric:
        codes, scales = _encode_symmetric(x, h, fmt)
        zero_points = None
    else:
        codes, scales, zero_points = _encode_asymmetric(x, h, fmt)
    parts: dict[str, Array] = {
        "codes": search.from_groups(codes, rows, columns),
        "scales": scales.astype(fmt.scale_type).reshape(rows, -1),
    }
    if zero_points is not None:
        parts["zero_points"] = zero_points.astype(np.uint8).reshape(rows, -1)
    return parts


def decode(quantized: QuantizedTensor) -> FloatArray:
    """(codes - zero point) * scale, in float32."""
    fmt = quantized.format
    assert isinstance(fmt, Affine)
    rows, columns = quantized.shape
    size = fmt.group_size or columns
    codes = quantized.parts["codes"].astype(np.float32)
    # One scale a column, by repeating each group's: the last group may be short.
    if not fmt.symmetric:
        codes -= np.repeat(quantized.parts["zero_points"].astype(np.float32), size, axis=1)[:, :columns]
    codes *= np.repeat(quantized.parts["scales"].astype(np.float32), size, axis=1)[:, :columns]
    return codes.reshape(rows, columns)


def _check_range(x: FloatArray, fmt: Affine) -> None:
    """Refuse weights whose scale would be infinite in the scale dtype."""
    limit = float(ml_dtypes.finfo(fmt.scale_type).max) * (1 << (fmt.bits - 1)) / 2
    magnitude = float(np.abs(x).max(initial=0))
    if magnitude > limit:
        raise ShapeError(
            f"a weight of magnitude {magnitude:g} needs a scale beyond {fmt.scale_dtype}; "
            f"use {Affine(fmt.bits, fmt.group_size, fmt.symmetric, 'fp32').name}, or keep this tensor in bf16"
        )


def _clip_ratios(bits: int) -> tuple[np.float32, ...]:
    return search.ratios(*_CLIP.get(bits, _CLIP_WIDE))


def _encode_symmetric(x: FloatArray, h: FloatArray, fmt: Affine) -> tuple[Array, FloatArray]:
    low, high = np.float32(fmt.lowest), np.float32(fmt.highest)

    def quantize(scaled: FloatArray) -> FloatArray:
        return np.clip(np.rint(scaled), low, high)

    step = search.largest(x) / np.float32(fmt.highest + 0.5)
    starts = [step * ratio for ratio in _clip_ratios(fmt.bits)]
    scales = search.best_scales(x, h, starts, quantize, search.storable(fmt.scale_type))
    # A group of zeros keeps scale 1, whatever the search preferred among equals.
    scales[~x.any(axis=0)] = 1
    codes = quantize(x * (np.float32(1) / scales)).astype(np.int8)
    return codes, scales


def _encode_asymmetric(x: FloatArray, h: FloatArray, fmt: Affine) -> tuple[Array, FloatArray, FloatArray]:
    store = search.storable(fmt.scale_type)
    high = np.float32(fmt.highest)
    minimum = np.minimum(x.min(axis=0), 0)
    maximum = np.maximum(x.max(axis=0), 0)
    empty = maximum == minimum
    maximum[empty] = 1
    best_scale = np.ones_like(minimum)
    best_zero = np.zeros_like(minimum)
    best_error = np.full_like(minimum, np.inf)
    for ratio in _clip_ratios(fmt.bits):
        scale = store((maximum - minimum) * ratio / high)
        centre = np.rint(np.clip(-minimum * ratio / scale, 0, high))
        for offset in (-1, 0, 1):
            zero = np.clip(centre + np.float32(offset), 0, high)
            trial = scale
            for _ in range(2):
                levels = _asymmetric_levels(x, trial, zero, high)
                error = search.squared_error(x, h, trial, levels)
                better = error < best_error
                best_scale[better], best_zero[better] = trial[better], zero[better]
                best_error[better] = error[better]
                products = search.ordered_sum(h * x * levels)
                norms = search.ordered_sum(h * levels * levels)
                refit = np.where((norms > 0) & (products > 0), products / np.where(norms > 0, norms, 1), trial)
                trial = store(refit.astype(np.float32))
    best_scale[empty], best_zero[empty] = 1, 0
    codes = _asymmetric_levels(x, best_scale, best_zero, high) + best_zero
    return codes.astype(np.uint8), best_scale, best_zero


def _asymmetric_levels(x: FloatArray, scale: FloatArray, zero: FloatArray, high: np.float32) -> FloatArray:
    """Codes less the zero point, as float32."""
    return np.clip(np.rint(x * (np.float32(1) / scale)) + zero, 0, high) - zero
