"""Elementwise functions and norms of the forward pass, in float32."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

from halfpint.tensors import FloatArray

_GELU_SLOPE = np.float32(np.sqrt(2 / np.pi))


def silu(x: FloatArray) -> FloatArray:
    """Multiply by the logistic function: x / (1 + exp(-x))."""
    with np.errstate(over="ignore"):  # exp(-x) = inf gives the right limit, -0
        return np.asarray(x / (np.float32(1) + np.exp(-x)), np.float32)


def gelu_tanh(x: FloatArray) -> FloatArray:
    """GELU by its tanh approximation (arXiv 1606.08415)."""
    with np.errstate(over="ignore"):  # x**3 = inf gives tanh's limit
        inner = np.tanh(_GELU_SLOPE * (x + np.float32(0.044715) * x * x * x))
    return np.asarray(np.float32(0.5) * x * (np.float32(1) + inner), np.float32)


ACTIVATIONS: Mapping[str, Callable[[FloatArray], FloatArray]] = MappingProxyType({"silu": silu, "gelu_tanh": gelu_tanh})


def rms_norm(x: FloatArray, weight: FloatArray, epsilon: float) -> FloatArray:
    """Divide by the root mean square over the last axis, then multiply by `weight`.

    Parameters
    ----------
    x : float32 [..., n]
    weight : float32 [n]
        With the family's offset already added.
    epsilon : float
        Added to the mean square.
    """
    mean_square = np.einsum("...i,...i->...", x, x) / np.float32(x.shape[-1])
    scale = np.float32(1) / np.sqrt(mean_square + np.float32(epsilon))
    normed: FloatArray = x * scale[..., np.newaxis] * weight
    return normed


def softcap(x: FloatArray, cap: float) -> FloatArray:
    """Bend values into (-cap, cap): cap * tanh(x / cap); unchanged when `cap` is 0."""
    if not cap:
        return x
    bent: FloatArray = np.tanh(x / np.float32(cap)) * np.float32(cap)
    return bent


def softmax(scores: FloatArray) -> FloatArray:
    """Exponentials that sum to one over the last axis; -inf gives exactly 0."""
    shares: FloatArray = scores - scores.max(axis=-1, keepdims=True)
    np.exp(shares, out=shares)
    shares /= shares.sum(axis=-1, keepdims=True)
    return shares
