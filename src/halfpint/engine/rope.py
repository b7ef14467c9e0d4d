"""Rotating queries and keys by their positions."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from halfpint.families import Rope, inverse_frequencies
from halfpint.tensors import FloatArray


@lru_cache(maxsize=16)
def rotation(rope: Rope, start: int, count: int) -> tuple[FloatArray, FloatArray]:
    """Cosines and sines of positions [start, start + count).

    Returns
    -------
    two float32 [count, dimensions / 2]
        Angles are computed in float32, as other engines do. The arrays are shared: do not write to them.
    """
    frequencies = inverse_frequencies(rope, start + count)
    angles = np.arange(start, start + count, dtype=np.float32)[:, np.newaxis] * frequencies
    factor = np.float32(rope.attention_factor)
    return np.cos(angles) * factor, np.sin(angles) * factor


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
