"""Products of float32 matrices that have the same bits on any number of threads.

OpenBLAS shares the rows and columns of a result among its threads, which changes nothing, but it also cuts the sums:
one of a length that is no multiple of its unroll is cut elsewhere with threads than without (`min_l` in its level3.c
and level3_thread.c). So sums are filled up with zeros to a multiple of `_SUM`, and never fewer than `_ROWS` vectors are
multiplied at once, because products of single vectors go another way. All of it goes through SciPy, which can add to a
matrix in place.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import blas

from halfpint.tensors import FloatArray

_SUM = 64
_ROWS = 16
_MIRRORED = 1024
"""Rows and columns that are copied across the diagonal at a time."""


def times_transposed(x: FloatArray, weight: FloatArray) -> FloatArray:
    """Multiply activations with a weight: x @ weight.T.

    Parameters
    ----------
    x : float32 [n, columns]
    weight : float32 [rows, columns]

    Returns
    -------
    float32 [n, rows]
    """
    wide = _filled(_filled(x, 0, _ROWS, least=True), 1, _SUM)
    # Column-major, as BLAS has it: the transposes of our arrays.
    product: FloatArray = blas.sgemm(1.0, _filled(weight, 1, _SUM).T, wide.T, trans_a=1).T
    return product[: len(x)]


def combine(weight: FloatArray, inner: FloatArray) -> FloatArray:
    """Multiply a weight float32 [rows, columns] with float32 [columns, n]: float32 [rows, n]."""
    tall = _filled(_filled(weight, 0, _ROWS, least=True), 1, _SUM)
    product: FloatArray = blas.sgemm(1.0, _filled(inner, 0, _SUM).T, tall.T).T
    return product[: len(weight)]


def add_outer(total: FloatArray, y: FloatArray, x: FloatArray, factor: float = 1.0) -> None:
    """Add the sum of outer products y.T @ x, times a factor, to a total, in place.

    Parameters
    ----------
    total : float32 [rows, columns], contiguous
    y : float32 [n, rows]
    x : float32 [n, columns]
    factor : float
    """
    y, x = _filled(y, 0, _SUM), _filled(x, 0, _SUM)
    if min(total.shape) < _ROWS:
        wide_y, wide_x = _filled(y, 1, _ROWS, least=True), _filled(x, 1, _ROWS, least=True)
        product = blas.sgemm(factor, wide_x.T, wide_y.T, trans_b=1).T
        total += product[: len(total), : total.shape[1]]
        return
    result = blas.sgemm(factor, x.T, y.T, beta=1.0, c=total.T, trans_b=1, overwrite_c=1)
    assert np.shares_memory(result, total), "BLAS was to add in place"


def add_square(total: FloatArray, x: FloatArray) -> None:
    """Add x.T @ x, x float32 [n, columns], to one triangle of a contiguous float32 [columns, columns]: see `mirror`."""
    result = blas.ssyrk(1.0, _filled(x, 0, _SUM).T, beta=1.0, c=total.T, overwrite_c=1)
    assert np.shares_memory(result, total), "BLAS was to add in place"


def mirror(total: FloatArray) -> None:
    """Copy the triangle that `add_square` fills to the other one, in place."""
    count = len(total)
    for start in range(0, count, _MIRRORED):
        end = min(count, start + _MIRRORED)
        corner = total[start:end, start:end]
        corner[:] = np.tril(corner) + np.tril(corner, -1).T
        total[start:end, end:] = total[end:, start:end].T


def _filled(array: FloatArray, axis: int, multiple: int, *, least: bool = False) -> FloatArray:
    """Add zeros at the end of an axis, up to a multiple of a number, or with `least` up to the number itself."""
    length = array.shape[axis]
    target = max(length, multiple) if least else -(-length // multiple) * multiple
    if target == length:
        return np.ascontiguousarray(array)
    shape = list(array.shape)
    shape[axis] = target
    wide = np.zeros(shape, np.float32)
    wide[tuple(slice(count) for count in array.shape)] = array
    return wide
