"""What a decoder does between its products, in native code; `halfpint.engine.activation` and `.rope` are the truth.

AVX2 and AVX-512 give the same bits, and no result depends on the number of threads.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from halfpint.kernels import _native
from halfpint.tensors import FloatArray

ACTIVATIONS: Mapping[str, int] = MappingProxyType({"silu": 0, "gelu_tanh": 1})
"""Numbers of activations in native code."""


def rms_norm(x: FloatArray, weight: FloatArray, epsilon: float) -> FloatArray:
    """Divide by the root mean square over the last axis, then multiply by `weight`.

    Parameters
    ----------
    x : float32 [..., n], contiguous
    weight : float32 [n]
        With the family's offset already added.
    epsilon : float
        Added to the mean square.
    """
    out = np.empty_like(x)
    if x.ndim == 2:
        _native.rms_norm(x, weight, epsilon, out)
    else:
        _native.rms_norm(x.reshape(-1, weight.size), weight, epsilon, out.reshape(-1, weight.size))
    return out


def rotate(x: FloatArray, head_dim: int, cosines: FloatArray, sines: FloatArray) -> None:
    """Rotate, in place, dimension i of each head together with dimension i + dimensions / 2.

    Parameters
    ----------
    x : float32 [tokens, heads * head_dim], contiguous
    head_dim : int
    cosines, sines : float32 [tokens, dimensions / 2]
        Of the tokens' positions. Dimensions of the head beyond those rotated stay.
    """
    _native.rotate(x, head_dim, cosines, sines)


def gated(activation: str, gates: FloatArray, ups: FloatArray, out: FloatArray | None = None) -> FloatArray:
    """Activate the gate and multiply: float32 [n, c] each, with contiguous rows.

    Parameters
    ----------
    activation : str
        `silu`, or `gelu_tanh`.
    gates, ups : float32 [n, c]
    out : float32 [n, c], contiguous, optional
        What to write to; it may be the gates themselves.
    """
    if out is None:
        out = np.empty(gates.shape, np.float32)
    _native.gate(ACTIVATIONS[activation], gates, ups, out)
    return out


def add(into: FloatArray, more: FloatArray) -> None:
    """Add in place: float32 [n, c] each, contiguous."""
    _native.add(into, more)
