"""Importances as the weights of a least-squares problem that always has a solution."""

from __future__ import annotations

import numpy as np

from halfpint.errors import NonFiniteError, ShapeError
from halfpint.tensors import Array, FloatArray

LEAST_WEIGHT = np.float32(2.0**-30)


def check_importance(importance: Array | None, shape: tuple[int, int]) -> Array | None:
    """Check an importance for a weight of this shape, and give it as contiguous float32.

    Raises
    ------
    ShapeError
        If it is neither [columns] nor [rows, columns].
    NonFiniteError
        If a value is negative, NaN or infinite.
    """
    if importance is None:
        return None
    if importance.shape not in {shape, shape[1:]}:
        raise ShapeError(
            f"importance of shape {list(importance.shape)} for a weight of {list(shape)}; give one per column"
        )
    checked = np.ascontiguousarray(importance, np.float32)
    good = np.isfinite(checked) & (checked >= 0)
    if not good.all():
        index = tuple(int(i) for i in np.argwhere(~good)[0])
        raise NonFiniteError(f"importance {checked[index]} at index {list(index)}; it must be finite and not negative")
    return checked


def positive_weights(importance: Array | None, shape: tuple[int, int], block_columns: int) -> FloatArray | None:
    """Weights of the squared errors, block by block: the largest of a block is 1, the least is 2**-30.

    Blocks do not compete, so that scaling changes nothing. The floor gives every group of columns without any
    importance equal weights, small enough to leave the others alone. A block without any gets all ones.

    Returns
    -------
    float32 [blocks, block_columns], or None for an importance of None
    """
    checked = check_importance(importance, shape)
    if checked is None:
        return None
    blocks = np.broadcast_to(checked, shape).reshape(-1, block_columns)
    largest = blocks.max(axis=1, keepdims=True)
    dead = largest <= 0
    scaled = blocks / np.where(dead, np.float32(1), largest)
    return np.where(dead, np.float32(1), np.maximum(scaled, LEAST_WEIGHT))
