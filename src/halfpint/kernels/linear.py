"""Products of activations with weights that stay in their compact form.

`Linear` is the handle that the engine holds for each weight. Its product is native: for few tokens every row is
decoded piece by piece in the first-level cache and multiplied at once; for many, a few rows are decoded and
multiplied with all tokens in tiles. The order of summation is fixed, so that the result depends neither on the
number of threads nor on which tokens come together. `reference_forward` is the truth that it is tested against.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from halfpint import formats
from halfpint.errors import ShapeError
from halfpint.kernels import _native
from halfpint.kernels.packed import Packed, pack
from halfpint.tensors import Array, FloatArray, QuantizedTensor

STORED: Mapping[str, str] = MappingProxyType(
    {
        "f32, f16, bf16": "as in the file",
        "GGUF blocks": "as in the file",
        "intN-gM of up to 4 bits, nf4, mxfp4, nvfp4": "two codes per byte, scales as they are",
        "intN-gM of 5 to 8 bits, fp8, fp8-block": "one code per byte, scales as they are",
    }
)
"""Every format has a native product; what is kept in memory while it runs."""


def explain() -> str:
    """Say which kernels run on this machine, and how each kind of weight is kept; for `halfpint doctor`."""
    lines = [f"linear products: {_native.linear_isa()} ({_native.thread_count()} threads)"]
    lines += [f"  {kind}: {how}" for kind, how in STORED.items()]
    return "\n".join(lines)


class Linear:
    """A weight [rows, columns] that vectors are multiplied with; rows are output features.

    Parameters
    ----------
    weight : Array [rows, columns] of float32, float16 or bfloat16, or QuantizedTensor
        Kept in its own bytes (see `STORED`); contiguous arrays, also maps of a file, are not copied.

    Raises
    ------
    ShapeError
        If the weight is no matrix or its parts have other shapes than its format says.
    UnsupportedError
        If the dtype is not a plain float.
    """

    __slots__ = ("_packed",)

    def __init__(self, weight: Array | QuantizedTensor) -> None:
        self._packed: Packed = pack(weight)

    @property
    def shape(self) -> tuple[int, int]:
        """[rows, columns]."""
        return self._packed.shape

    @property
    def kind(self) -> str:
        """How the weight is kept: a plain or GGUF format's name, `codes4` or `codes8`."""
        return self._packed.kind

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays held."""
        return self._packed.nbytes

    def forward(self, x: FloatArray) -> FloatArray:
        """Multiply: `x @ weight.T`.

        Parameters
        ----------
        x : float32 [tokens, columns]

        Returns
        -------
        float32 [tokens, rows]
            Within `error_bound` of the exact product.

        Raises
        ------
        ShapeError
            If `x` has other columns than the weight.
        """
        rows, columns = self.shape
        if x.ndim != 2 or x.shape[1] != columns:
            raise ShapeError(f"activations of shape {list(x.shape)} for a weight of shape {[rows, columns]}")
        x = np.ascontiguousarray(x, np.float32)
        out = np.empty((x.shape[0], rows), np.float32)
        self._packed.handle.forward(x, out)
        return out

    def rows(self, ids: Array) -> FloatArray:
        """Decode single rows: the look-up of an embedding.

        Parameters
        ----------
        ids : integers [n]
            From 0 to rows - 1.

        Returns
        -------
        float32 [n, columns]

        Raises
        ------
        ShapeError
            If an id is not a row.
        """
        wanted = np.ascontiguousarray(ids, np.int64).reshape(-1)
        if wanted.size and (wanted.min() < 0 or wanted.max() >= self.shape[0]):
            raise ShapeError(f"ids from {wanted.min()} to {wanted.max()} for a table of {self.shape[0]} rows")
        out = np.empty((wanted.size, self.shape[1]), np.float32)
        self._packed.handle.gather(wanted, out)
        return out

    def decode(self) -> FloatArray:
        """Decode the whole weight: float32 [rows, columns], the bits of `halfpint.formats.decode`."""
        out = np.empty(self.shape, np.float32)
        self._packed.handle.decode(0, out)
        return out


def decoded(weight: Array | QuantizedTensor) -> FloatArray:
    """Give the float32 values of a plain or quantized weight, by the NumPy reference."""
    if isinstance(weight, QuantizedTensor):
        return formats.decode(weight)
    return weight.astype(np.float32)


def reference_forward(weight: Array | QuantizedTensor, x: FloatArray) -> FloatArray:
    """Multiply in float64 and round once: what `Linear.forward` approximates.

    Parameters
    ----------
    weight : Array [rows, columns] or QuantizedTensor
    x : float32 [tokens, columns]

    Returns
    -------
    float32 [tokens, rows]
    """
    product = x.astype(np.float64) @ decoded(weight).astype(np.float64).T
    rounded: FloatArray = product.astype(np.float32)
    return rounded


def error_bound(weight: Array | QuantizedTensor, x: FloatArray) -> FloatArray:
    """Largest distance of `Linear.forward` from the exact product, float32 [tokens, rows].

    A sum of n float32 products is off by at most n * u * sum |w x| / (1 - n u) with u = 2**-24, whatever the order
    (Higham, Accuracy and Stability of Numerical Algorithms, 3.1 and 4.2); one u more for rounding the reference.
    """
    columns = x.shape[1]
    unit = 2.0**-24
    magnitude = np.abs(x.astype(np.float64)) @ np.abs(decoded(weight).astype(np.float64)).T
    bound: FloatArray = ((columns + 1) * unit / (1 - columns * unit) * magnitude).astype(np.float32)
    return bound
