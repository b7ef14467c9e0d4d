"""Products of float32 matrices that have the same bits on any number of threads.

Each product has one thread of BLAS: with several, OpenBLAS cuts sums elsewhere (`min_l` in its level3.c and
level3_thread.c), and each of its kernels in its own way. What is wide is cut into pieces by its shape alone, which are
made side by side. So the order of every sum follows from shapes, and bits differ between kernels of BLAS, that is
between classes of processors, and by nothing else.

The bits of a row may depend on its place among the others: kernels of Haswell take 12 at a time, and not all of them in
one order. So callers cut text by the sizes of text and model alone. Sums are filled up with zeros to a multiple of
`_SUM`, and never fewer than `_ROWS` vectors are multiplied at once, because products of single vectors go another way.

NumPy cannot add a product to a matrix, so what is added is made in strips that are still in the cache when they are
added. Small strips spare memory, large ones spare BLAS from rearranging the other factor for each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from halfpint.kernels.machine import WIDE_COLUMNS, one_blas_thread, side_by_side
from halfpint.tensors import FloatArray

_SUM = 64
_ROWS = 16
_STRIP = 2**11
"""Numbers in a strip for each number of the sum."""
_WIDE_STRIPS = 8
"""Strips of a wide matrix at least, to keep as many processors busy."""
PIECE = 256
"""Rows of a piece, or a multiple of them where there would be more than `_MOST_PIECES`."""
_MOST_PIECES = 64
_MIRRORED = 512
"""Rows that are copied, or added up, at a time."""


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
    product = np.empty((len(wide), len(tall)), np.float32)

    def work(start: int, end: int) -> None:
        np.matmul(wide, tall[start:end].T, out=product[:, start:end])

    in_pieces(len(tall), work, tall.shape[1])
    return product[: len(x), : len(weight)]


def combine(weight: FloatArray, inner: FloatArray) -> FloatArray:
    """Multiply a weight float32 [rows, columns] with float32 [columns, n]: float32 [rows, n]."""
    tall = _filled(_filled(weight, 0, _ROWS, least=True), 1, _SUM)
    wide = _filled(_filled(inner, 1, _ROWS, least=True), 0, _SUM)
    product = np.empty((len(tall), wide.shape[1]), np.float32)

    def work(start: int, end: int) -> None:
        np.matmul(tall[start:end], wide, out=product[start:end])

    in_pieces(len(tall), work, tall.shape[1])
    return product[: len(weight), : inner.shape[1]]


def add_outer(total: FloatArray, y: FloatArray, x: FloatArray) -> None:
    """Add the sum of outer products y.T @ x to a total, in place.

    Parameters
    ----------
    total : float32 [rows, columns]
    y : float32 [n, rows]
    x : float32 [n, columns]
    """
    _add_strips(np.add, total, y, x)


def subtract_outer(total: FloatArray, y: FloatArray, x: FloatArray) -> None:
    """Subtract y.T @ x from a total, in place: see `add_outer`."""
    _add_strips(np.subtract, total, y, x)


def _add_strips(add: np.ufunc, total: FloatArray, y: FloatArray, x: FloatArray) -> None:
    """Add y.T @ x to a total, in place, or subtract it."""
    (count, rows), columns = y.shape, x.shape[1]
    y, x = _filled(y, 0, _SUM), _filled(_filled(x, 0, _SUM), 1, _ROWS, least=True)

    def work(start: int, end: int) -> None:
        strip = _filled(y[:, start:end], 1, _ROWS, least=True) if end - start < _ROWS else y[:, start:end]
        add(total[start:end], (strip.T @ x)[: end - start, :columns], out=total[start:end])

    _over(_strips(count, rows, columns), work, columns)


def add_square(total: FloatArray, x: FloatArray) -> None:
    """Add x.T @ x, x float32 [n, columns], to the lower triangle of float32 [columns, columns]: see `mirror`."""
    count, columns = x.shape
    x = _filled(_filled(x, 0, _SUM), 1, _ROWS, least=True)

    def work(start: int, end: int) -> None:
        last = max(end, _ROWS)
        first = max(0, min(start, last - _ROWS))
        product = x[:, first:last].T @ x[:, :last]
        total[start:end, :end] += product[start - first : end - first, :end]

    # The longest first: whoever is done before takes the short ones.
    _over(_strips(count, columns, columns)[::-1], work, columns)


def mirror(total: FloatArray) -> None:
    """Copy the lower triangle, which `add_square` fills, to the upper one, in place."""
    count = len(total)

    def work(start: int, end: int) -> None:
        corner = total[start:end, start:end]
        corner[:] = np.tril(corner) + np.tril(corner, -1).T
        total[start:end, end:] = total[end:, start:end].T

    _over(_rows(total), work, count)


def added(first: FloatArray, second: FloatArray) -> FloatArray:
    """Add two matrices: float32 [rows, columns], new."""
    total = np.empty_like(first)
    _over(
        _rows(total), lambda start, end: np.add(first[start:end], second[start:end], out=total[start:end]), len(total)
    )
    return total


def ordered(square: FloatArray, order: NDArray[np.int64] | None) -> FloatArray:
    """Copy float32 [n, n], rows and columns in another order: entry (i, j) is that of (order[i], order[j])."""
    copy = np.empty(square.shape, np.float32)

    def work(start: int, end: int) -> None:
        if order is None:
            copy[start:end] = square[start:end]
        else:
            np.take(square[order[start:end]], order, axis=1, out=copy[start:end], mode="clip")

    _over(_rows(copy), work, len(copy))
    return copy


def in_pieces(count: int, work: Callable[[int, int], object], columns: int) -> None:
    """Do work(start, end) on `count` rows, or columns, in pieces of `PIECE`; side by side where columns are many.

    Parameters
    ----------
    count : int
    work : function of int, int
        What one piece writes, no other reads.
    columns : int
        Of the matrices; those below `WIDE_COLUMNS` are one piece.
    """
    if columns < WIDE_COLUMNS:
        with one_blas_thread():
            work(0, count)
        return
    step = max(PIECE, -(-count // _MOST_PIECES // PIECE) * PIECE)
    starts = range(0, count, step)
    # Never so few at the end that the product would be one of single vectors.
    ends = [*(start for start in starts if start and count - start >= _ROWS), count]
    side_by_side([partial(work, start, end) for start, end in pairwise([0, *ends])])


def _rows(array: FloatArray) -> list[tuple[int, int]]:
    return [(start, min(len(array), start + _MIRRORED)) for start in range(0, len(array), _MIRRORED)]


def _strips(count: int, rows: int, columns: int) -> list[tuple[int, int]]:
    """Cut rows into strips of nearly equal height: see `_STRIP`."""
    least = _WIDE_STRIPS if columns >= WIDE_COLUMNS else 1
    number = max(least, -(-rows * columns // (_STRIP * max(count, _SUM))))
    return list(pairwise(rows * place // number for place in range(number + 1)))


def _over(strips: Sequence[tuple[int, int]], work: Callable[[int, int], object], columns: int) -> None:
    """Do work on each strip: side by side where columns are many enough."""
    if columns >= WIDE_COLUMNS:
        side_by_side([partial(work, start, end) for start, end in strips])
        return
    with one_blas_thread():
        for start, end in strips:
            work(start, end)


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
