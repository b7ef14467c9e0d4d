"""8-bit floats (e4m3fn: 4 exponent bits, 3 of mantissa, largest 448, no infinity), per row or per 128x128 block.

Sources: OCP 8-bit floating point specification 1.0 for the numbers; the 128x128 blocks are those of DeepSeek-V3's
checkpoints (`weight_scale_inv`) and of compressed-tensors' block strategy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import ml_dtypes
import numpy as np

from halfpint.formats import search
from halfpint.tensors import Array, FloatArray, PartSpec, QuantizedTensor

LARGEST = np.float32(448)
CODES = np.dtype(ml_dtypes.float8_e4m3fn)
"""NumPy dtype of the codes."""
# An e4m3 number keeps its relative precision over fifteen octaves, so clipping gains nothing: only where the group's
# values fall within an octave is worth a search. Eighths of an octave, as literals: pow may round otherwise elsewhere.
_OCTAVE = (1.0, 1.0905077, 1.1892071, 1.2968396, 1.4142135, 1.5422108, 1.6817929, 1.8340081)
SEARCH_GRID = search.SearchGrid(tuple((np.float32(factor), np.float32(0)) for factor in _OCTAVE))
"""The scales that `encode` tries: multiples of that which just holds the largest magnitude."""


@dataclass(frozen=True, slots=True)
class Float8:
    """e4m3 codes with float32 scales.

    Attributes
    ----------
    name : str
        `fp8` (a scale per row) or `fp8-block`.
    block : int
        0 for a scale per row, else the side of the square that shares one.
    """

    name: str
    block: int

    @property
    def bits(self) -> int:
        """Eight."""
        return 8

    @property
    def bits_per_weight(self) -> float:
        """Codes and scales; for whole rows, the scale of a row of 4096."""
        return 8 + 32 / (self.block * self.block or 4096)

    @property
    def row_multiple(self) -> int:
        """Rows that share scales."""
        return self.block or 1

    def refusal(self, rows: int, columns: int) -> str | None:
        """Every shape is accepted: blocks at the edges may be partial."""
        if rows < 1 or columns < 1:
            return f"a tensor of shape [{rows}, {columns}] has no weights to quantize; keep it as it is"
        return None

    def parts(self, rows: int, columns: int) -> Mapping[str, PartSpec]:
        """`codes` e4m3 [rows, columns]; `scales` float32 [rows, 1] or [row blocks, column blocks]."""
        scales = (-(-rows // self.block), -(-columns // self.block)) if self.block else (rows, 1)
        return {"codes": PartSpec((rows, columns), CODES), "scales": PartSpec(scales, np.dtype(np.float32))}

    def stored_bytes(self, rows: int, columns: int) -> int:
        """As the parts are."""
        return sum(part.nbytes for part in self.parts(rows, columns).values())


FP8 = Float8("fp8", 0)
FP8_BLOCK = Float8("fp8-block", 128)

FORMATS = (FP8, FP8_BLOCK)


def encode(weight: FloatArray, fmt: Float8, importance: Array | None) -> Mapping[str, Array]:
    """Search each scale over an octave, then round to the nearest e4m3 number.

    Parameters
    ----------
    weight : float32 [rows, columns]
    fmt : Float8
    importance : float32 [columns] or [rows, columns], optional
        Weights of the squared error.

    Returns
    -------
    Mapping of str to Array
        As `fmt.parts` says. Normal numbers are within 1/16 of their value; zeros are exact.
    """
    rows, columns = weight.shape
    x = _to_regions(weight, fmt)
    h = _to_regions(search.spread_importance(importance, (rows, columns)), fmt)
    groups = search.prepare(x, h)
    store = search.storable(np.dtype(np.float32), groups.unit)
    best = search.Best(groups, lambda scaled, _: _round(scaled).astype(np.float32))
    base = (np.abs(groups.peaks) / LARGEST).astype(np.float32)
    search.follow(best, SEARCH_GRID, search.ratios_of_top(base, store), store)
    codes = _round(groups.scaled(x, best.scale))
    scales = (best.scale * groups.unit).reshape(fmt.parts(rows, columns)["scales"].shape)
    return {"codes": _from_regions(codes, fmt, rows, columns), "scales": scales}


def decode(quantized: QuantizedTensor) -> FloatArray:
    """Code times scale, in float32."""
    fmt = quantized.format
    assert isinstance(fmt, Float8)
    rows, columns = quantized.shape
    spread = _spread(quantized.parts["scales"].astype(np.float32), fmt, rows, columns)
    values: FloatArray = quantized.parts["codes"].astype(np.float32) * spread
    return values


def _round(scaled: FloatArray) -> Array:
    return np.clip(scaled, -LARGEST, LARGEST).astype(CODES)


def _to_regions(values: FloatArray, fmt: Float8) -> FloatArray:
    """[rows, columns] -> [weights of a scale, scales]; blocks at the edges are filled with zeros."""
    if not fmt.block:
        return np.ascontiguousarray(values.T)
    rows, columns = values.shape
    row_blocks, column_blocks = -(-rows // fmt.block), -(-columns // fmt.block)
    padded = np.zeros((row_blocks * fmt.block, column_blocks * fmt.block), dtype=np.float32)
    padded[:rows, :columns] = values
    blocks = padded.reshape(row_blocks, fmt.block, column_blocks, fmt.block).transpose(1, 3, 0, 2)
    return np.ascontiguousarray(blocks.reshape(fmt.block * fmt.block, -1))


def _from_regions(codes: Array, fmt: Float8, rows: int, columns: int) -> Array:
    """Undo `_to_regions`, the filling dropped."""
    if not fmt.block:
        return np.ascontiguousarray(codes.T)
    row_blocks, column_blocks = -(-rows // fmt.block), -(-columns // fmt.block)
    blocks = codes.reshape(fmt.block, fmt.block, row_blocks, column_blocks).transpose(2, 0, 3, 1)
    full = blocks.reshape(row_blocks * fmt.block, column_blocks * fmt.block)
    return np.ascontiguousarray(full[:rows, :columns])


def _spread(scales: FloatArray, fmt: Float8, rows: int, columns: int) -> FloatArray:
    """Scales repeated over the elements they belong to: [rows, columns] or [rows, 1]."""
    if not fmt.block:
        return scales
    return np.repeat(np.repeat(scales, fmt.block, axis=0), fmt.block, axis=1)[:rows, :columns]
