"""8-bit floats (e4m3fn: 4 exponent bits, 3 of mantissa, largest 448, no infinity), per row or per 128x128 block.

Sources: OCP 8-bit floating point specification 1.0 for the numbers; the 128x128 blocks are those of DeepSeek-V3's
checkpoints (`weight_scale_inv`) and of compressed-tensors' block strategy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import ml_dtypes
import numpy as np

from halfpint.errors import ShapeError
from halfpint.tensors import Array, FloatArray, PartSpec, QuantizedTensor

LARGEST = np.float32(448)
_CODES = np.dtype(ml_dtypes.float8_e4m3fn)
# An e4m3 number keeps its relative precision over fifteen octaves, so clipping gains nothing: only where the
# group's values fall within an octave is worth a search.
_OCTAVE = tuple(np.float32(2 ** (step / 8)) for step in range(8))


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
        return {"codes": PartSpec((rows, columns), _CODES), "scales": PartSpec(scales, np.dtype(np.float32))}

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

    Raises
    ------
    ShapeError
        If a scale would not be finite: never for finite weights, whose largest is 3.4e38 / 448 steps away.
    """
    rows, columns = weight.shape
    h = np.ones_like(weight) if importance is None else np.broadcast_to(importance, weight.shape).astype(np.float32)
    base = np.maximum(_reduce(np.abs(weight), fmt, "max") / LARGEST, np.finfo(np.float32).tiny)
    base[_reduce(np.abs(weight), fmt, "max") == 0] = 1
    if not np.isfinite(base).all():
        raise ShapeError("a weight is too large for an fp8 scale; keep this tensor in bf16")
    best = base
    best_error = np.full(base.shape, np.inf)
    for factor in _OCTAVE:
        scale = (base * factor).astype(np.float32)
        spread = _spread(scale, fmt, rows, columns)
        error = _reduce((h * (weight - _round(weight, spread).astype(np.float32) * spread) ** 2), fmt, "sum")
        best = np.where(error < best_error, scale, best)
        best_error = np.minimum(error, best_error)
    codes = _round(weight, _spread(best, fmt, rows, columns))
    return {"codes": codes, "scales": best.astype(np.float32)}


def decode(quantized: QuantizedTensor) -> FloatArray:
    """Code times scale, in float32."""
    fmt = quantized.format
    assert isinstance(fmt, Float8)
    rows, columns = quantized.shape
    spread = _spread(quantized.parts["scales"].astype(np.float32), fmt, rows, columns)
    values: FloatArray = quantized.parts["codes"].astype(np.float32) * spread
    return values


def _round(weight: FloatArray, spread: FloatArray) -> Array:
    return np.clip(weight / spread, -LARGEST, LARGEST).astype(_CODES)


def _reduce(values: FloatArray, fmt: Float8, how: str) -> FloatArray:
    """Largest value, or float64 sum, of each scale's region, in the shape of the scales."""
    rows, columns = values.shape
    if fmt.block:
        row_blocks, column_blocks = -(-rows // fmt.block), -(-columns // fmt.block)
        padded = np.zeros((row_blocks * fmt.block, column_blocks * fmt.block), dtype=np.float32)
        padded[:rows, :columns] = values
        values = padded.reshape(row_blocks, fmt.block, column_blocks, fmt.block).swapaxes(1, 2)
        values = values.reshape(row_blocks, column_blocks, -1)
    else:
        values = values[:, np.newaxis, :]
    if how == "max":
        return values.max(axis=-1)
    return values.sum(axis=-1, dtype=np.float64).astype(np.float32)


def _spread(scales: FloatArray, fmt: Float8, rows: int, columns: int) -> FloatArray:
    """Scales repeated over the elements they belong to: [rows, columns] or [rows, 1]."""
    if not fmt.block:
        return scales
    return np.repeat(np.repeat(scales, fmt.block, axis=0), fmt.block, axis=1)[:rows, :columns]
