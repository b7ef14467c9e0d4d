"""Four-bit codes that index sixteen fixed levels: nf4, mxfp4 and nvfp4.

Sources: nf4's table is QLoRA's (arXiv 2305.14314, appendix E) as bitsandbytes stores it; e2m1 and e8m0 are those of
the OCP Microscaling specification 1.0; nvfp4's two scales follow compressed-tensors' nvfp4-pack-quantized.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from halfpint.errors import ShapeError
from halfpint.formats import search
from halfpint.tensors import Array, FloatArray, PartSpec, QuantizedTensor

NF4_LEVELS = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
    -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip

# Code bit 3 is the sign, bits 2..1 the exponent, bit 0 the mantissa.
E2M1_LEVELS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)

_E8M0_BIAS = 127
_E4M3_LARGEST = np.float32(448)
_E2M1_LARGEST = np.float32(6)


@dataclass(frozen=True, slots=True)
class Levels:
    """Codes into a fixed table of sixteen levels, with a scale per group.

    Attributes
    ----------
    name : str
        `nf4`: float32 scales per 64 columns, a short last group allowed. `mxfp4`: powers of two (e8m0) per 32.
        `nvfp4`: float8 e4m3 scales per 16, under one float32 scale of the whole tensor.
    group_size : int
        Columns that share a scale.
    scale_bits : int
        Bits of a group's scale.
    """

    name: str
    group_size: int
    scale_bits: int

    @property
    def bits(self) -> int:
        """Four."""
        return 4

    @property
    def bits_per_weight(self) -> float:
        """Codes and the group's scale."""
        return 4 + self.scale_bits / self.group_size

    @property
    def row_multiple(self) -> int:
        """1; 0 for nvfp4, whose outer scale depends on the whole tensor."""
        return 0 if self.name == "nvfp4" else 1

    @property
    def table(self) -> FloatArray:
        """float32 [16]: the level of each code."""
        return np.array(NF4_LEVELS if self.name == "nf4" else E2M1_LEVELS, dtype=np.float32)

    def refusal(self, rows: int, columns: int) -> str | None:
        """nf4 takes any shape; the others need whole groups."""
        if rows < 1 or columns < 1:
            return f"a tensor of shape [{rows}, {columns}] has no weights to quantize; keep it as it is"
        if self.name != "nf4" and columns % self.group_size:
            return (
                f"{columns} columns do not divide into groups of {self.group_size}; "
                f"use int4-g{self.group_size}, which allows a short last group, or keep this tensor in 16 bits"
            )
        return None

    def parts(self, rows: int, columns: int) -> Mapping[str, PartSpec]:
        """`codes` uint8 [rows, columns] below 16, `scales` [rows, groups], and nvfp4's `global_scale` [1]."""
        groups = -(-columns // self.group_size)
        parts = {
            "codes": PartSpec((rows, columns), np.dtype(np.uint8)),
            "scales": PartSpec((rows, groups), _SCALES[self.name]),
        }
        if self.name == "nvfp4":
            parts["global_scale"] = PartSpec((1,), np.dtype(np.float32))
        return parts

    def stored_bytes(self, rows: int, columns: int) -> int:
        """Two codes a byte, and the scales."""
        groups = -(-columns // self.group_size)
        outer = 4 if self.name == "nvfp4" else 0
        return rows * -(-columns // 2) + rows * groups * self.scale_bits // 8 + outer


_SCALES: Mapping[str, np.dtype[Any]] = {
    "nf4": np.dtype(np.float32),
    "mxfp4": np.dtype(np.uint8),
    "nvfp4": np.dtype(ml_dtypes.float8_e4m3fn),
}

NF4 = Levels("nf4", 64, 32)
MXFP4 = Levels("mxfp4", 32, 8)
NVFP4 = Levels("nvfp4", 16, 8)

FORMATS = (NF4, MXFP4, NVFP4)


def encode(weight: FloatArray, fmt: Levels, importance: Array | None) -> Mapping[str, Array]:
    """Search each group's scale, then take the nearest levels.

    Parameters
    ----------
    weight : float32 [rows, columns]
    fmt : Levels
    importance : float32 [columns] or [rows, columns], optional
        Weights of the squared error.

    Returns
    -------
    Mapping of str to Array
        As `fmt.parts` says. A group of zeros decodes to zeros.

    Raises
    ------
    ShapeError
        If mxfp4's largest scale, 2**127, is too small.
    """
    rows, columns = weight.shape
    x = search.to_groups(weight, fmt.group_size)
    h = search.importance_groups(importance, (rows, columns), fmt.group_size)
    encoder = {"nf4": _encode_nf4, "mxfp4": _encode_mxfp4, "nvfp4": _encode_nvfp4}[fmt.name]
    scales, extra, stored = encoder(x, h)
    codes = nearest_level(x * (np.float32(1) / scales), fmt.table)
    return {
        "codes": search.from_groups(codes, rows, columns),
        "scales": stored.reshape(rows, -1),
        **extra,
    }


def decode(quantized: QuantizedTensor) -> FloatArray:
    """Level times scale, in float32."""
    fmt = quantized.format
    assert isinstance(fmt, Levels)
    _, columns = quantized.shape
    scales = quantized.parts["scales"]
    if fmt.name == "mxfp4":
        factors = np.ldexp(np.float32(1), scales.astype(np.int32) - _E8M0_BIAS).astype(np.float32)
    elif fmt.name == "nvfp4":
        factors = scales.astype(np.float32) / quantized.parts["global_scale"]
    else:
        factors = scales.astype(np.float32)
    values = fmt.table[quantized.parts["codes"]]
    return values * np.repeat(factors, fmt.group_size, axis=1)[:, :columns]


def nearest_level(scaled: FloatArray, table: FloatArray) -> Array:
    """Code (uint8) of the level nearest to each value; a tie goes to the smaller level."""
    order = np.argsort(table, kind="stable")
    ordered = table[order]
    middles = (ordered[1:] + ordered[:-1]) / 2
    codes: Array = order.astype(np.uint8)[np.searchsorted(middles, scaled, side="left")]
    return codes


def _quantizer(table: FloatArray) -> search.Quantize:
    def quantize(scaled: FloatArray) -> FloatArray:
        levels: FloatArray = table[nearest_level(scaled, table)]
        return levels

    return quantize


def _encode_nf4(x: FloatArray, h: FloatArray) -> tuple[FloatArray, dict[str, Array], Array]:
    step = search.largest(x)
    starts = [step * ratio for ratio in search.ratios(0.7, 1.1, 17)]
    scales = search.best_scales(x, h, starts, _quantizer(NF4.table), search.storable(np.dtype(np.float32)))
    scales[~x.any(axis=0)] = 1
    return scales, {}, scales


def _encode_mxfp4(x: FloatArray, h: FloatArray) -> tuple[FloatArray, dict[str, Array], Array]:
    quantize = _quantizer(MXFP4.table)
    # The specification's exponent puts the largest magnitude into [4, 8); one more avoids clipping above 6.
    exponent = np.floor(np.log2(search.largest(x))).astype(np.int32) - 2
    if int(exponent.max(initial=0)) > _E8M0_BIAS:
        raise ShapeError("a weight is too large for mxfp4's scale of 2**127; keep this tensor in bf16")
    best = np.clip(exponent, -_E8M0_BIAS, _E8M0_BIAS)
    best_error = np.full(x.shape[1], np.inf, dtype=np.float32)
    for offset in (0, 1, -1):
        trial = np.clip(exponent + offset, -_E8M0_BIAS + 1, _E8M0_BIAS - 1)
        scale = np.ldexp(np.float32(1), trial).astype(np.float32)
        error = search.squared_error(x, h, scale, quantize(x * (np.float32(1) / scale)))
        better = error < best_error
        best[better], best_error[better] = trial[better], error[better]
    scales = np.ldexp(np.float32(1), best).astype(np.float32)
    return scales, {}, (best + _E8M0_BIAS).astype(np.uint8)


def _encode_nvfp4(x: FloatArray, h: FloatArray) -> tuple[FloatArray, dict[str, Array], Array]:
    # The outer scale maps the largest group scale of the tensor to e4m3's largest number.
    largest = np.float32(np.abs(x).max(initial=0)) or np.float32(1)
    outer = np.float32(_E4M3_LARGEST * _E2M1_LARGEST) / largest
    if not np.isfinite(outer):
        outer = np.float32(np.finfo(np.float32).max)
    smallest = np.float32(2.0**-9)  # e4m3's smallest subnormal: no group gets scale 0

    def stored(scale: FloatArray) -> FloatArray:
        inner = np.clip(scale * outer, smallest, _E4M3_LARGEST).astype(ml_dtypes.float8_e4m3fn)
        return inner.astype(np.float32) / outer

    step = search.largest(x) / _E2M1_LARGEST
    starts = [np.minimum(step, largest / _E2M1_LARGEST) * ratio for ratio in search.ratios(0.75, 1.55, 17)]
    scales = search.best_scales(x, h, starts, _quantizer(NVFP4.table), stored)
    inner = np.clip(scales * outer, smallest, _E4M3_LARGEST).astype(ml_dtypes.float8_e4m3fn)
    return scales, {"global_scale": np.array([outer], dtype=np.float32)}, inner
