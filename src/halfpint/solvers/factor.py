"""The factor that error feedback spreads errors with, computed by matrix products alone.

LAPACK's own routines for triangular matrices crawl when their threads must share the processor with other work: at
2048 columns, with both cores busy, OpenBLAS took 4.3 s for the inverse that takes 0.4 s here. The recursion below
leaves all but small corners to matrix products, which do not mind.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from halfpint.tensors import FloatArray

DAMPING = (0.01, 0.03, 0.1, 0.3, 1.0)
"""Shares of the mean diagonal that are added to the diagonal, one after the other until there is a factor."""

_CORNER = 96


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
    reversed_moments = moments[::-1, ::-1].astype(np.float64)
    np.einsum("ii->i", reversed_moments)[...] += damping
    try:
        _invert_cholesky(reversed_moments)
    except np.linalg.LinAlgError:
        return None
    upper: FloatArray = np.triu(reversed_moments.astype(np.float32)[::-1, ::-1])
    return upper if np.isfinite(upper).all() else None


def _invert_cholesky(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Replace the lower triangle of a symmetric matrix by L^-1, L L^T being the matrix; what is above is left over.

    With A = [[A11, A21^T], [A21, A22]] and X = L^-1: L21 = A21 X11^T; X22 is that of A22 - L21 L21^T; and
    X21 = -X22 L21 X11.
    """
    size = len(matrix)
    if size <= _CORNER:
        lower = np.linalg.cholesky(matrix)
        matrix[...] = np.linalg.solve(lower, np.eye(size))
        return matrix
    middle = size // 2
    corner = _lower(_invert_cholesky(matrix[:middle, :middle]))
    below = matrix[middle:, :middle] @ corner.T
    matrix[middle:, middle:] -= below @ below.T
    rest = _lower(_invert_cholesky(matrix[middle:, middle:]))
    matrix[middle:, :middle] = -(rest @ (below @ corner))
    return matrix


def _lower(triangle: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.tril(triangle)
