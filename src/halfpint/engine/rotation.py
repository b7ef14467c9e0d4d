"""Rotating queries and keys by their positions."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from halfpint.families import ModelConfig, Rope, inverse_frequencies, stretch
from halfpint.tensors import FloatArray


@lru_cache(maxsize=16)
def rotation(rope: Rope, start: int, count: int, text_length: int) -> tuple[FloatArray, FloatArray]:
    """Cosines and sines of positions [start, start + count) of a text.

    Parameters
    ----------
    rope : Rope
    start, count : int
    text_length : int
        Tokens of the whole text, of which frequencies may depend: see `halfpint.families.stretch`.

    Returns
    -------
    two float32 [count, dimensions / 2]
        Angles are computed in float32, as other engines do. The arrays are shared: do not write to them.
    """
    frequencies = inverse_frequencies(rope, text_length)
    angles = np.arange(start, start + count, dtype=np.float32)[:, np.newaxis] * frequencies
    factor = np.float32(rope.attention_factor)
    return np.cos(angles) * factor, np.sin(angles) * factor


def varying_ropes(config: ModelConfig) -> tuple[Rope, ...]:
    """Ropes of a model whose frequencies depend on the length of the text; empty for most models."""
    ropes = {config.layer_rope(layer) for layer in range(config.layers)}
    return tuple(rope for rope in ropes if rope is not None and stretch(rope, 1) != stretch(rope, 1 << 40))


def rotate(heads: FloatArray, cosines: FloatArray, sines: FloatArray) -> FloatArray:
    """Rotate dimension i of each head together with dimension i + dimensions / 2.

    Parameters
    ----------
    heads : float32 [sequences, tokens, heads, head_dim]
    cosines, sines : float32 [tokens, dimensions / 2]
        Of the tokens' positions. Dimensions of the head beyond those rotated pass unchanged.

    Returns
    -------
    float32, the same shape
    """
    half = cosines.shape[1]
    cosines, sines = cosines[:, np.newaxis, :], sines[:, np.newaxis, :]
    first, second = heads[..., :half], heads[..., half : 2 * half]
    rotated = np.empty_like(heads)
    rotated[..., :half] = first * cosines - second * sines
    rotated[..., half : 2 * half] = second * cosines + first * sines
    rotated[..., 2 * half :] = heads[..., 2 * half :]
    return rotated
