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
E8M0_SMALLEST, E8M0_LARGEST = np.float32(2.0**-127), np.float32(2.0**127)
"""The range of e8m0, which has powers of two only."""
E4M3_LARGEST = np.float32(448)
E4M3_SMALLEST = np.float32(2.0**-9)
"""e4m3's smallest subnormal: no group gets scale 0."""
_E2M1_LARGEST = np.float32(6)
_NVFP4_OUTER_LIMIT = np.float32(2.0**116)


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
    """
    rows, columns = weight.shape
    x = search.to_groups(weight, fmt.group_size)
    full = search.spread_importance(importance, (rows, columns))
    groups = search.prepare(x, search.to_groups(full, fmt.group_size))
    encoder = {"nf4": _encode_nf4, "mxfp4": _encode_mxfp4, "nvfp4": _encode_nvfp4}[fmt.name]
    scales, parts = encoder(groups, float(np.abs(weight).max()))
    codes = search.from_groups(nearest_level(groups.scaled(x, scales), fmt.table), rows, columns)
    per_group = {"scales": parts.pop("scales").reshape(rows, -1)}
    return {"codes": codes, **per_group, **parts}


def decode(quantized: QuantizedTensor) -> FloatArray:
    """Level times scale, in float32."""
    fmt = quantized.format
    assert isinstance(fmt, Levels)
    _, columns = quantized.shape
    values = fmt.table[quantized.parts["codes"]]
    return values * np.repeat(factors(fmt, quantized.parts), fmt.group_size, axis=1)[:, :columns]


def factors(fmt: Levels, parts: Mapping[str, Array]) -> FloatArray:
    """Give what the levels of each group are multiplied by, float32 [rows, groups]."""
    scales = parts["scales"]
    if fmt.name == "mxfp4":
        return np.ldexp(np.float32(1), scales.astype(np.int32) - _E8M0_BIAS).astype(np.float32)
    if fmt.name == "nvfp4":
        return (scales.astype(np.float32) / parts["global_scale"]).astype(np.float32)
    return scales.astype(np.float32)


def nearest_level(scaled: FloatArray, table: FloatArray) -> Array:
    """Code (uint8) of the level nearest to each value; a tie goes to the smaller level, and zero is never -0."""
    order = np.array([code for code in np.argsort(table, kind="stable") if table[code] != 0 or code == _zero(table)])
    ordered = table[order]
    middles = (ordered[1:] + ordered[:-1]) / 2
    codes: Array = order.astype(np.uint8)[np.searchsorted(middles, scaled, side="left")]
    return codes


def _zero(table: FloatArray) -> int:
    """Code of the first zero of a table: e2m1 has two."""
    return int(np.flatnonzero(table == 0)[0])


def _quantizer(table: FloatArray) -> search.Quantize:
    def quantize(scaled: FloatArray, _: FloatArray) -> FloatArray:
        levels: FloatArray = table[nearest_level(scaled, table)]
        return levels

    return quantize


# (smallest, step) of sixteen scales to try, as parts of that which just holds the largest magnitude.
_GRIDS: Mapping[str, tuple[float, float]] = {"nf4": (0.7, 1.05), "nvfp4": (0.72, 1.055)}
_GRID_COUNT = 16
_STEPS = (-0.5, -0.25, 0.25, 0.5)
_REFITS = 2


def search_grid(fmt: Levels) -> search.SearchGrid:
    """Give the scales that `encode` tries for a format.

    Starts are multiples of the scale that just holds the largest magnitude; of mxfp4, of the largest power of two not
    above that magnitude.
    """
    zero = np.float32(0)
    if fmt.name == "mxfp4":
        # The specification's exponent puts the largest magnitude into [4, 8); one more avoids clipping above 6.
        return search.SearchGrid(tuple((np.float32(2.0**exponent), zero) for exponent in (-2, -1, -3)))
    smallest, step = _GRIDS[fmt.name]
    ratios = search.geometric(smallest, step, _GRID_COUNT)
    around = tuple((np.float32(1 + part * (step - 1)), zero) for part in _STEPS)
    return search.SearchGrid(tuple((ratio, zero) for ratio in ratios), (around,), _REFITS)


def outer_scale(largest: float) -> np.float32:
    """Give nvfp4's scale of a whole tensor: it maps the largest group's scale to e4m3's largest number.

    Its limit keeps the smallest group scale a number that float32 can divide by.
    """
    with np.errstate(over="ignore"):
        outer = np.float32(E4M3_LARGEST * _E2M1_LARGEST) / np.float32(largest or 1)
    return np.float32(min(outer, _NVFP4_OUTER_LIMIT))


def _fit(groups: search.Groups, fmt: Levels, store: search.Store) -> search.Best:
    magnitude = np.abs(groups.peaks)
    if fmt.name == "mxfp4":
        base = np.ldexp(np.float32(1), np.frexp(magnitude)[1] - 1)
    else:
        base = magnitude / np.float32(np.abs(fmt.table).max())
    best = search.Best(groups, _quantizer(fmt.table))
    search.follow(best, search_grid(fmt), search.ratios_of_top(base.astype(np.float32), store), store)
    return best


def _encode_nf4(groups: search.Groups, _: float) -> tuple[FloatArray, dict[str, Array]]:
    best = _fit(groups, NF4, search.storable(_SCALES["nf4"], groups.unit))
    return best.scale, {"scales": best.scale * groups.unit}


def _encode_mxfp4(groups: search.Groups, _: float) -> tuple[FloatArray, dict[str, Array]]:
    inverse = np.float32(1) / groups.unit

    def store(scale: FloatArray) -> FloatArray:
        with np.errstate(under="ignore"):
            stored: FloatArray = np.clip(scale * groups.unit, E8M0_SMALLEST, E8M0_LARGEST) * inverse
        return stored

    best = _fit(groups, MXFP4, store)
    exponents = np.frexp(best.scale * groups.unit)[1] - 1
    return best.scale, {"scales": (exponents + _E8M0_BIAS).astype(np.uint8)}


def _encode_nvfp4(groups: search.Groups, largest: float) -> tuple[FloatArray, dict[str, Array]]:
    outer = outer_scale(largest)
    inverse = np.float32(1) / groups.unit

    def inner(scale: FloatArray) -> Array:
        with np.errstate(over="ignore"):
            limited: Array = np.clip(scale * groups.unit * outer, E4M3_SMALLEST, E4M3_LARGEST)
        return limited.astype(_SCALES["nvfp4"])

    def store(scale: FloatArray) -> FloatArray:
        # A group far smaller than the tensor's largest rounds to zeros, under any scale that is as large as this.
        with np.errstate(over="ignore"):
            stored: FloatArray = np.minimum(inner(scale).astype(np.float32) / outer * inverse, np.float32(2.0**64))
        return stored

    best = _fit(groups, NVFP4, store)
    return best.scale, {"scales": inner(best.scale), "global_scale": np.array([outer], dtype=np.float32)}
