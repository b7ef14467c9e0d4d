"""The factor that error feedback spreads errors with, computed by matrix products alone.

LAPACK's own routines for triangular matrices crawl when their threads must share the processor with other work: at
2048 columns, with both cores busy, OpenBLAS took 4.3 s for the inverse that takes 0.4 s here. The recursion below
leaves all but small corners to matrix products, which do not mind.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from halfpint.tensors import FloatArray

DAMPING = (0.01, 0.03, 0.1, 0.3, 1.0)
"""Shares of the mean diagonal that are added to the diagonal, one after the other until there is a factor."""

_CORNER = 96
# Triangles up to this size are multiplied as if they were squares.
_TRIANGLE = 384

_Float = TypeVar("_Float", np.float32, np.float64)


def live_scale(second: FloatArray) -> np.float32:
    """Give the mean of the diagonal over the columns that have an input; 1 if none has."""
    diagonal = np.diagonal(second)
    alive = diagonal > 0
    return np.float32(diagonal[alive].mean(dtype=np.float64)) if alive.any() else np.float32(1)


def live(second: FloatArray) -> FloatArray:
    """Scale second moments, float32 [columns, columns], to a mean diagonal of 1 over the columns that have an input.

    A column whose input is always zero gets a variance of 1 of its own, so that its weights are rounded to the nearest
    and disturb nothing. Without any input the answer is the identity.
    """
    dead = ~(np.diagonal(second) > 0)
    scaled: FloatArray = second / live_scale(second)
    scaled[dead] = 0
    scaled[:, dead] = 0
    scaled[dead, dead] = 1
    return scaled


def feedback_factor(moments: FloatArray, damping: float) -> FloatArray | None:
    """Upper triangular U with U^T U = (H + damping I)^-1, H of mean diagonal 1.

    Parameters
    ----------
    moments : float32 [columns, columns]
        Symmetric.
    damping : float
        What is added to the diagonal.

    Returns
    -------
    float32 [columns, columns], or None if the damped matrix is not positive definite

    Notes
    -----
    Turned around, the lower Cholesky factor of H is the inverse of the upper factor that is wanted, so no inverse of H
    itself is formed. Works in float64, in less than three arrays of float64 [columns, columns].
    """
    lower = _inverse_factor(moments[::-1, ::-1].astype(np.float64), damping)
    if lower is None:
        return None
    upper: FloatArray = np.triu(lower.astype(np.float32)[::-1, ::-1])
    return upper if np.isfinite(upper).all() else None


def solve_damped(right: FloatArray, moments: FloatArray, damping: float) -> FloatArray | None:
    """Give right (H + damping I)^-1, float32 [rows, columns]; None if the damped matrix is not positive definite.

    Works in float32: with a damping of some hundredths, which is well above its rounding errors for any H of mean
    diagonal 1 and some ten thousand columns.
    """
    lower = _inverse_factor(moments.astype(np.float32), damping)
    if lower is None:
        return None
    solved: FloatArray = _times(_times_transposed(right, lower), lower)
    return solved if np.isfinite(solved).all() else None


def _inverse_factor(matrix: NDArray[_Float], damping: float) -> NDArray[_Float] | None:
    """Turn a symmetric matrix, damped, into the inverse of its lower Cholesky factor, in place."""
    np.einsum("ii->i", matrix)[...] += matrix.dtype.type(damping)
    try:
        _invert_cholesky(matrix)
    except np.linalg.LinAlgError:
        return None
    return matrix


def _invert_cholesky(matrix: NDArray[_Float]) -> None:
    """Replace the lower triangle of a symmetric matrix by X = L^-1, L L^T being the matrix; what is above is left over.

    With A = [[A11, A21^T], [A21, A22]]: L21 = A21 X11^T; X22 is that of A22 - L21 L21^T; and X21 = -X22 L21 X11.
    """
    size = len(matrix)
    if size <= _CORNER:
        matrix[...] = np.linalg.inv(np.linalg.cholesky(matrix))
        return
    middle = size // 2
    corner, rest = matrix[:middle, :middle], matrix[middle:, middle:]
    _invert_cholesky(corner)
    below = _times_transposed(matrix[middle:, :middle], corner)
    rest -= below @ below.T
    _invert_cholesky(rest)
    matrix[middle:, :middle] = -_times_transposed(_times(below, corner).T, rest).T


def _times(matrix: NDArray[_Float], lower: NDArray[_Float]) -> NDArray[_Float]:
    """Multiply by a lower triangle from the right; only its large corners of zeros are left out."""
    size = len(lower)
    if size <= _TRIANGLE:
        return matrix @ np.tril(lower)
    middle = size // 2
    left = _times(matrix[:, :middle], lower[:middle, :middle]) + matrix[:, middle:] @ lower[middle:, :middle]
    return np.concatenate([left, _times(matrix[:, middle:], lower[middle:, middle:])], axis=1)


def _times_transposed(matrix: NDArray[_Float], lower: NDArray[_Float]) -> NDArray[_Float]:
    """Multiply by the transpose of a lower triangle from the right."""
    size = len(lower)
    if size <= _TRIANGLE:
        return matrix @ np.tril(lower).T
    middle = size // 2
    right = _times_transposed(matrix[:, middle:], lower[middle:, middle:])
    right += matrix[:, :middle] @ lower[middle:, :middle].T
    return np.concatenate([_times_transposed(matrix[:, :middle], lower[:middle, :middle]), right], axis=1)
