"""The factor that error feedback spreads errors with, computed by matrix products alone.

LAPACK's own routines for triangular matrices crawl when their threads must share the processor with other work: at
2048 columns, with both cores busy, OpenBLAS took 4.3 s for the inverse that takes 0.4 s here. The recursion below
leaves all but small corners to matrix products, which do not mind.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from halfpint.kernels.blas import in_pieces, ordered
from halfpint.tensors import FloatArray

DAMPING = (0.01, 0.03, 0.1, 0.3, 1.0)
"""Shares of the mean diagonal that are added to the diagonal, one after the other until there is a factor."""

# LAPACK calls up to this size have one thread.
_CORNER = 96
# Columns of a product with a triangle that are made at a time; what is zero in them is multiplied as well.
_STRIP = 256
# Matrices are filled up to a multiple of this, and halved at one: see `halfpint.kernels.blas`.
_SUM = 64


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
    scaled = second.copy()
    enliven(scaled)
    return scaled


def enliven(second: FloatArray) -> np.float32:
    """As `live`, in place; gives the number that moments were divided by."""
    dead = ~(np.diagonal(second) > 0)
    unit = live_scale(second)
    second /= unit
    second[dead] = 0
    second[:, dead] = 0
    second[dead, dead] = 1
    return unit


def feedback_factor(moments: FloatArray, damping: float, order: NDArray[np.int64] | None = None) -> FloatArray | None:
    """Upper triangular U with U^T U = (H + damping I)^-1, H of mean diagonal 1.

    Parameters
    ----------
    moments : float32 [columns, columns]
        Symmetric.
    damping : float
        What is added to the diagonal.
    order : int64 [columns], optional
        Columns in the order in which H is to have them.

    Returns
    -------
    float32 [columns, columns], or None if the damped matrix is not positive definite

    Notes
    -----
    H = R R^T, R upper triangular, makes U the inverse of R, so no inverse of H itself is formed. Works in float32, in
    the array that is returned: what rounding makes of an entry H_ij is some millionths of sqrt(H_ii H_jj) (Higham,
    Accuracy and Stability of Numerical Algorithms, 10.1), which the sums over tokens are off by as well.
    """
    factor, columns = _filled_factor(moments, damping, order), len(moments)
    if factor is None or len(factor) == columns:
        return factor
    return factor[:columns, :columns].copy()


def _filled_factor(moments: FloatArray, damping: float, order: NDArray[np.int64] | None = None) -> FloatArray | None:
    """As `feedback_factor`, for as many columns more, without an input, as make their number a multiple of `_SUM`."""
    factor, columns = ordered(moments, order), len(moments)
    missing = -columns % _SUM
    if missing:
        factor = np.pad(factor, (0, missing))
        np.einsum("ii->i", factor)[columns:] = 1
    np.einsum("ii->i", factor)[...] += np.float32(damping)
    try:
        _invert_factor(factor)
    except np.linalg.LinAlgError:
        return None
    return factor if np.isfinite(factor).all() else None


def solve_damped(right: FloatArray, moments: FloatArray, damping: float) -> FloatArray | None:
    """Turn `right`, float32 [rows, columns], into right (H + damping I)^-1, in place.

    Returns
    -------
    `right`, or None if the damped matrix is not positive definite
    """
    factor = _filled_factor(moments, damping)
    if factor is None:
        return None
    columns = len(moments)
    wide = right if len(factor) == columns else np.pad(right, ((0, 0), (0, len(factor) - columns)))
    _times_transposed(wide, factor)
    _times(wide, factor)
    if wide is not right:
        right[...] = wide[:, :columns]
    return right if np.isfinite(right).all() else None


def _invert_factor(matrix: FloatArray) -> None:
    """Replace a symmetric matrix, of which the upper triangle is looked at, by U = R^-1, R R^T being the matrix.

    With A = [[A11, A12], [A12^T, A22]]: U22 is that of A22; R12 = A12 U22^T; U11 that of A11 - R12 R12^T; and
    U12 = -U11 R12 U22.
    """
    size = len(matrix)
    if size <= _CORNER:
        turned = np.linalg.inv(np.linalg.cholesky(matrix[::-1, ::-1].astype(np.float64)))
        matrix[...] = np.triu(turned[::-1, ::-1])
        return
    middle = -(-size // (2 * _SUM)) * _SUM
    corner, beside, rest = matrix[:middle, :middle], matrix[:middle, middle:], matrix[middle:, middle:]
    _invert_factor(rest)
    _times_transposed(beside, rest)
    _subtract_square(corner, beside)
    _invert_factor(corner)
    _times(beside, rest)
    _multiply_from_left(beside, corner)
    matrix[middle:, :middle] = 0


def _subtract_square(corner: FloatArray, beside: FloatArray) -> None:
    """Subtract beside beside^T from the upper triangle of `corner`, in place."""

    def work(first: int, last: int) -> None:
        for start, end in _strips(last, first):
            corner[start:end, start:] -= beside[start:end] @ beside[start:].T

    in_pieces(len(corner), work, len(corner))


def _multiply_from_left(matrix: FloatArray, upper: FloatArray) -> None:
    """Multiply by the negative of an upper triangle from the left, in place."""

    def work(first: int, last: int) -> None:
        for start, end in _strips(len(upper)):
            matrix[start:end, first:last] = -upper[start:end, start:] @ matrix[start:, first:last]

    in_pieces(matrix.shape[1], work, len(upper))


def _times(matrix: FloatArray, upper: FloatArray) -> None:
    """Multiply by an upper triangle from the right, in place."""

    def work(first: int, last: int) -> None:
        for start, end in reversed(_strips(len(upper))):
            matrix[first:last, start:end] = matrix[first:last, :end] @ upper[:end, start:end]

    in_pieces(len(matrix), work, len(upper))


def _times_transposed(matrix: FloatArray, upper: FloatArray) -> None:
    """Multiply by the transpose of an upper triangle from the right, in place."""

    def work(first: int, last: int) -> None:
        for start, end in _strips(len(upper)):
            matrix[first:last, start:end] = matrix[first:last, start:] @ upper[start:end, start:].T

    in_pieces(len(matrix), work, len(upper))


def _strips(size: int, first: int = 0) -> list[tuple[int, int]]:
    return [(start, min(size, start + _STRIP)) for start in range(first, size, _STRIP)]
