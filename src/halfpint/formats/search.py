"""The search for a group's scale, shared by every format whose codes multiply one scale.

For fixed codes the best scale is closed form, sum(h x q) / sum(h q q); for a fixed scale the best codes are the
nearest ones. Starting from several scales and alternating the two finds the best scale to within the grid; the
winner is the candidate with the smallest true weighted error, computed with the scale as it will be stored.

Everything here works on [positions, groups]: one column a group, so that every sum runs over positions in a fixed
order and a native kernel with a group in each lane gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from halfpint.tensors import Array, FloatArray

Quantize = Callable[[FloatArray], FloatArray]
"""Weights divided by the scale, [positions, groups] -> the levels that they are stored as, same shape."""

Store = Callable[[FloatArray], FloatArray]
"""Positive scales [groups] -> the same as they will read back from the file, never 0."""


def to_groups(values: Array, size: int) -> Array:
    """[rows, columns] -> [size, rows * groups]; a short last group is filled with zeros."""
    rows, columns = values.shape
    groups = -(-columns // size)
    if groups * size != columns:
        padded = np.zeros((rows, groups * size), dtype=values.dtype)
        padded[:, :columns] = values
        values = padded
    return np.ascontiguousarray(values.reshape(rows * groups, size).T)


def from_groups(values: Array, rows: int, columns: int) -> Array:
    """[size, rows * groups] -> [rows, columns], the filling dropped."""
    return np.ascontiguousarray(values.T.reshape(rows, -1)[:, :columns])


def importance_groups(importance: Array | None, shape: tuple[int, int], size: int) -> FloatArray:
    """Weights of the squared error as [size, rows * groups]; a group of zeros only becomes all ones."""
    if importance is None:
        return np.ones((size, shape[0] * -(-shape[1] // size)), dtype=np.float32)
    full = np.broadcast_to(np.asarray(importance, dtype=np.float32), shape)
    grouped: FloatArray = to_groups(full, size)
    grouped[:, ~grouped.any(axis=0)] = 1.0
    return grouped


def ordered_sum(values: FloatArray) -> FloatArray:
    """Sum over positions, first to last, in float32: the order that native lanes use."""
    total = np.zeros(values.shape[1:], dtype=np.float32)
    for row in values:
        total += row
    return total


def squared_error(x: FloatArray, h: FloatArray, scale: FloatArray, levels: FloatArray) -> FloatArray:
    """Weighted squared error of each group, [groups]."""
    difference = x - scale * levels
    return ordered_sum(h * difference * difference)


def best_scales(
    x: FloatArray, h: FloatArray, starts: Sequence[FloatArray], quantize: Quantize, store: Store
) -> FloatArray:
    """Choose each group's scale.

    Parameters
    ----------
    x : float32 [positions, groups]
        Weights.
    h : float32 [positions, groups]
        Weights of their squared errors, non-negative.
    starts : sequence of float32 [groups]
        Scales to start from, positive.
    quantize, store
        What the format makes of scaled weights, and of a scale.

    Returns
    -------
    float32 [groups]
        As stored: `store` was applied. No start, and no closed-form refit of one, has a smaller error.
    """
    best = np.ones(x.shape[1], dtype=np.float32)
    best_error = np.full(x.shape[1], np.inf, dtype=np.float32)
    for start in starts:
        scale = store(start)
        for _ in range(2):
            levels = quantize(x * (np.float32(1) / scale))
            error = squared_error(x, h, scale, levels)
            better = error < best_error
            best[better] = scale[better]
            best_error[better] = error[better]
            products = ordered_sum(h * x * levels)
            norms = ordered_sum(h * levels * levels)
            refit = np.where((norms > 0) & (products > 0), products / np.where(norms > 0, norms, 1), scale)
            scale = store(refit.astype(np.float32))
    return best


def largest(x: FloatArray) -> FloatArray:
    """Largest magnitude of each group, 1 for a group of zeros so that its scale is a number like any other."""
    magnitude: FloatArray = np.abs(x).max(axis=0, initial=0)
    magnitude[magnitude == 0] = 1
    return magnitude


def ratios(start: float, end: float, count: int) -> tuple[np.float32, ...]:
    """Evenly spaced factors of the largest magnitude, to start searches from."""
    return tuple(np.float32(value) for value in np.linspace(start, end, count))


def storable(dtype: np.dtype[Any]) -> Store:
    """Round to a scale dtype, keeping the result positive: what underflows becomes the smallest number there is."""
    smallest = np.array(1, dtype=f"<u{dtype.itemsize}").view(dtype).astype(np.float32)

    def store(scale: FloatArray) -> FloatArray:
        with np.errstate(over="ignore", under="ignore"):
            return np.maximum(scale.astype(dtype).astype(np.float32), smallest)

    return store
