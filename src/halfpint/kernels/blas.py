"""Products of float32 matrices that have the same bits on any number of threads.

OpenBLAS shares the rows and columns of a result among its threads, which changes nothing, but it also cuts the sums:
one of a length that is no multiple of its unroll is cut elsewhere with threads than without (`min_l` in its level3.c
and level3_thread.c). So sums are filled up with zeros to a multiple of `_SUM`, and never fewer than `_ROWS` vectors are
multiplied at once, because products of single vectors go another way.

NumPy cannot add a product to a matrix, so what is added is made in strips that are still in the cache when they are
added. Small strips spare memory, large ones spare BLAS from rearranging the other factor for each.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from halfpint.tensors import FloatArray

_SUM = 64
_ROWS = 16
_STRIP = 2**11
"""Numbers in a strip for each number of the sum."""
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
    tall = _filled(_filled(weight, 0, _ROWS, least=True), 1, _SUM)
    product: FloatArray = (wide @ tall.T)[: len(x), : len(weight)]
    return product


def combine(weight: FloatArray, inner: FloatArray) -> FloatArray:
    """Multiply a weight float32 [rows, columns] with float32 [columns, n]: float32 [rows, n]."""
    tall = _filled(_filled(weight, 0, _ROWS, least=True), 1, _SUM)
    wide = _filled(_filled(inner, 1, _ROWS, least=True), 0, _SUM)
    product: FloatArray = (tall @ wide)[: len(weight), : inner.shape[1]]
    return product


def add_outer(total: FloatArray, y: FloatArray, x: FloatArray) -> None:
    """Add the sum of outer products y.T @ x to a total, in place.

    Parameters
    ----------
    total : float32 [rows, columns]
    y : float32 [n, rows]
    x : float32 [n, columns]
    """
    for rows, product in _outer(y, x):
        total[rows] += product


def subtract_outer(total: FloatArray, y: FloatArray, x: FloatArray) -> None:
    """Subtract y.T @ x from a total, in place: see `add_outer`."""
    for rows, product in _outer(y, x):
        total[rows] -= product


def _outer(y: FloatArray, x: FloatArray) -> Iterator[tuple[slice, FloatArray]]:
    """Strips of y.T @ x, and the rows of each."""
    (count, rows), columns = y.shape, x.shape[1]
    y, x = _filled(y, 0, _SUM), _filled(_filled(x, 0, _SUM), 1, _ROWS, least=True)
    for start, end in _strips(count, rows, columns):
        strip = _filled(y[:, start:end], 1, _ROWS, least=True)
        yield slice(start, end), (strip.T @ x)[: end - start, :columns]


def add_square(total: FloatArray, x: FloatArray) -> None:
    """Add x.T @ x, x float32 [n, columns], to the lower triangle of float32 [columns, columns]: see `mirror`."""
    count, columns = x.shape
    x = _filled(_filled(x, 0, _SUM), 1, _ROWS, least=True)
    for start, end in _strips(count, columns, columns):
        last = max(end, _ROWS)
        first = max(0, min(start, last - _ROWS))
        product = x[:, first:last].T @ x[:, :last]
        total[start:end, :end] += product[start - first : end - first, :end]


def _strips(count: int, rows: int, columns: int) -> Iterator[tuple[int, int]]:
    """Cut rows into strips of nearly equal height: see `_STRIP`."""
    number = max(1, -(-rows * columns // (_STRIP * max(count, _SUM))))
    return pairwise(rows * place // number for place in range(number + 1))


def mirror(total: FloatArray) -> None:
    """Copy the lower triangle, which `add_square` fills, to the upper one, in place."""
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
