"""Floats as they are: f32, f16 and bf16."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import ml_dtypes
import numpy as np

from halfpint.errors import ShapeError
from halfpint.tensors import Array, FloatArray, PartSpec, QuantizedTensor


@dataclass(frozen=True, slots=True)
class Plain:
    """Floating-point values, rounded to nearest even and otherwise untouched."""

    name: str
    bits: int

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """The NumPy dtype of the values."""
        return _DTYPES[self.name]

    @property
    def bits_per_weight(self) -> float:
        """Exactly `bits`."""
        return float(self.bits)

    @property
    def row_multiple(self) -> int:
        """Rows are independent."""
        return 1

    def refusal(self, rows: int, columns: int) -> str | None:  # noqa: ARG002 - part of the Format contract
        """Every shape is accepted."""
        return None

    def parts(self, rows: int, columns: int) -> Mapping[str, PartSpec]:
        """`values`, as they are."""
        return {"values": PartSpec((rows, columns), self.dtype)}

    def stored_bytes(self, rows: int, columns: int) -> int:
        """`bits / 8` bytes per value."""
        return rows * columns * self.bits // 8


_DTYPES: Mapping[str, np.dtype[np.generic]] = {
    "f32": np.dtype(np.float32),
    "f16": np.dtype(np.float16),
    "bf16": np.dtype(ml_dtypes.bfloat16),
}

F32 = Plain("f32", 32)
F16 = Plain("f16", 16)
BF16 = Plain("bf16", 16)

FORMATS = (F32, F16, BF16)


def encode(weight: FloatArray, fmt: Plain, importance: Array | None) -> Mapping[str, Array]:  # noqa: ARG001
    """Round to the nearest float of the format, ties to even.

    Raises
    ------
    ShapeError
        If a value is too large for the format (f16 ends at 65504): a silent infinity would be worse.
    """
    with np.errstate(over="ignore"):
        values = weight.astype(fmt.dtype, order="C")
    if fmt.bits == 16 and not np.isfinite(values.astype(np.float32)).all():
        largest = float(np.abs(weight).max())
        wider = "bf16 or f32" if fmt == F16 else "f32"
        raise ShapeError(f"a value of magnitude {largest:g} does not fit {fmt.name}; keep this tensor in {wider}")
    return {"values": values}


def decode(quantized: QuantizedTensor) -> FloatArray:
    """Widen to float32, exactly."""
    return quantized.parts["values"].astype(np.float32)
