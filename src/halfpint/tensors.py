"""Tensors as records: what a file says of one (`TensorSpec`), and one in a numeric format (`QuantizedTensor`)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
"""An array of any dtype; the docstring of whoever takes or gives it names the dtype and shape."""

FloatArray = NDArray[np.float32]
"""An array of float32, the precision in which formats encode and decode."""

Float64Array = NDArray[np.float64]
"""An array of float64, in which sums of many numbers are made."""


# Weights of a slice: 8 million are 32 MB of float32, few enough for any laptop and enough to keep threads busy.
SLICE_WEIGHTS = 8_000_000
# Slices start at multiples of this, so that 128x128 blocks and zero points packed along rows are never cut.
ROW_STEP = 256


@dataclass(frozen=True, slots=True)
class PartSpec:
    """One stored array of a format: its shape and dtype for a tensor of a given shape."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def nbytes(self) -> int:
        """Size in bytes when the array is stored as it is; containers may pack codes more tightly."""
        return math.prod(self.shape) * self.dtype.itemsize


class Format(Protocol):
    """What every numeric format record says of itself; `halfpint.formats` lists them all.

    A format turns a weight of shape [rows, columns] into parts, and back. It knows neither files nor models.
    """

    @property
    def name(self) -> str:
        """The name used on the command line, in plan files and in results: `q4_k`, `int4-g128`."""

    @property
    def bits(self) -> int:
        """Nominal bits of a code: 4 for `q4_k`."""

    @property
    def bits_per_weight(self) -> float:
        """True storage cost on long rows, scales included: 4.5 for `q4_k`."""

    @property
    def row_multiple(self) -> int:
        """Rows that are coded together: 1, 128 for 128x128 blocks, 0 when the tensor is coded as a whole.

        A weight may be encoded in slices of rows that are multiples of this, with the same result.
        """

    def refusal(self, rows: int, columns: int) -> str | None:
        """Why a weight of this shape cannot have this format, in words that tell what to do; None when it can."""

    def parts(self, rows: int, columns: int) -> Mapping[str, PartSpec]:
        """Arrays that encode a weight of this shape; the same names that `QuantizedTensor.parts` has."""

    def stored_bytes(self, rows: int, columns: int) -> int:
        """Bytes of a weight of this shape with its codes packed tightly, scales included, headers not."""


@dataclass(frozen=True, slots=True)
class QuantizedTensor:
    """A weight in a numeric format.

    Attributes
    ----------
    format : Format
        What the parts mean.
    shape : tuple of int
        [rows, columns] of the weight; rows are output features.
    parts : Mapping of str to Array
        As `format.parts(*shape)` says.
    """

    format: Format
    shape: tuple[int, int]
    parts: Mapping[str, Array]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """What a checkpoint's headers say of one tensor.

    Attributes
    ----------
    name : str
        The name that the Hugging Face folder of this family uses, whatever the container.
    shape : tuple of int
        As in the Hugging Face folder.
    dtype : str
        The container's own word: `BF16`, `F8_E4M3`, `Q4_K`, `pack-quantized int4`.
    nbytes : int
        Bytes in the file, scales included.
    format : Format or None
        The numeric format when the tensor is a weight in one (plain floats included); None for other
        dtypes, such as integers, which are copied.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    nbytes: int
    format: Format | None

    @property
    def parameters(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


def row_slices(
    shape: tuple[int, ...], *formats: Format | None, slice_weights: int = SLICE_WEIGHTS
) -> Iterator[tuple[int, int]]:
    """Row ranges [start, end) that cover a tensor in order.

    Parameters
    ----------
    shape : tuple of int
    formats : Format or None
        Of source and target: when one of them codes the tensor as a whole, there is one slice.
    slice_weights : int
        About so many weights in a slice, and never fewer than `ROW_STEP` rows.
    """
    if not shape:
        yield 0, 1
        return
    rows = shape[0]
    row_weights = math.prod(shape[1:])
    step = max(ROW_STEP, slice_weights // max(row_weights, 1) // ROW_STEP * ROW_STEP)
    if len(shape) == 1 or any(fmt is not None and fmt.row_multiple == 0 for fmt in formats):
        step = max(rows, 1)
    for start in range(0, rows, step):
        yield start, min(start + step, rows)
