"""Products are those of NumPy in float64, whatever the sizes, and have the same bits on any number of threads."""

from __future__ import annotations

import numpy as np
import pytest

from halfpint.kernels import machine
from halfpint.kernels.blas import (
    add_outer,
    add_square,
    added,
    combine,
    mirror,
    ordered,
    subtract_outer,
    times_transposed,
)

SIZES = [(1, 16, 16), (3, 20, 33), (64, 128, 64), (100, 48, 321), (0, 16, 64), (17, 1, 70)]


def arrays(*shapes):
    generator = np.random.default_rng(0)
    return [generator.standard_normal(shape, np.float32) for shape in shapes]


def bound_of(first, second, more=0.0):
    """What a sum of products in float32 may be off, in any order: its terms, one for each that is added, times eps."""
    terms = first.shape[1] + 2
    return terms * np.finfo(np.float32).eps * (np.abs(first).astype(np.float64) @ np.abs(second) + np.abs(more))


def assert_close(found, expected, bound):
    assert found.shape == expected.shape
    assert found.dtype == np.float32
    assert (np.abs(found - expected) <= bound).all()


@pytest.mark.parametrize(("n", "rows", "columns"), SIZES)
def test_activations_times_a_weight(n, rows, columns):
    x, weight = arrays((n, columns), (rows, columns))
    assert_close(times_transposed(x, weight), x.astype(np.float64) @ weight.T, bound_of(x, weight.T))


@pytest.mark.parametrize(("n", "rows", "columns"), SIZES)
def test_a_weight_times_a_matrix(n, rows, columns):
    weight, inner = arrays((rows, columns), (columns, max(n, 16)))
    assert_close(combine(weight, inner), weight.astype(np.float64) @ inner, bound_of(weight, inner))


@pytest.mark.parametrize(("n", "rows", "columns"), SIZES)
def test_outer_products_are_added(n, rows, columns):
    y, x, total = arrays((n, rows), (n, columns), (rows, columns))
    expected, bound = total + y.astype(np.float64).T @ x, bound_of(y.T, x, total)
    add_outer(total, y, x)
    assert_close(total, expected, bound)


@pytest.mark.parametrize(("n", "columns"), [(n, columns) for n, _, columns in SIZES] + [(70, 2500)])
def test_squares_are_added_to_one_triangle_and_mirrored(n, columns):
    (x,) = arrays((n, columns))
    total = np.zeros((columns, columns), np.float32)
    add_square(total, x)
    add_square(total, x)
    mirror(total)
    assert np.array_equal(total, total.T)
    assert_close(total, 2 * x.astype(np.float64).T @ x, 2 * bound_of(x.T, x))


@pytest.mark.parametrize("columns", [20, machine.WIDE_COLUMNS + 40])
def test_a_square_matrix_is_ordered_anew(columns):
    (square,) = arrays((columns, columns))
    order = np.random.default_rng(1).permutation(columns)
    assert np.array_equal(ordered(square, order), square[np.ix_(order, order)])
    assert np.array_equal(ordered(square, None), square)
    assert np.array_equal(added(square, square), 2 * square)


def placed(array, offset):
    """Copy an array to an address that is `offset` bytes beyond a multiple of 64."""
    memory = np.empty(array.nbytes + 128, np.uint8)
    start = -memory.ctypes.data % 64 + offset
    copy = memory[start : start + array.nbytes].view(np.float32).reshape(array.shape)
    copy[...] = array
    return copy


def bits_of_all(x, y, weight):
    """What every product gives for inputs x [n, columns] and y [n, rows], and a weight [rows, columns]."""
    columns = x.shape[1]
    square, sums = np.zeros((columns, columns), np.float32), np.zeros(weight.shape, np.float32)
    add_square(square, x)
    mirror(square)
    add_outer(sums, y, x)
    subtract_outer(sums, y[: len(y) // 2], x[: len(x) // 2])
    return [part.tobytes() for part in (square, sums, times_transposed(x, weight), combine(weight, square))]


@pytest.mark.bits
@pytest.mark.parametrize("columns", [70, 300, machine.WIDE_COLUMNS + 40, machine.WIDE_COLUMNS + 321])
@pytest.mark.parametrize(("n", "rows"), [(1, 16), (17, 50), (100, 531)])
def test_bits_depend_on_neither_threads_nor_addresses(n, rows, columns, threads):
    given = arrays((n, columns), (n, rows), (rows, columns))
    threads(1)
    expected = bits_of_all(*given)
    for count in (2, 3, 5):
        threads(count)
        assert bits_of_all(*given) == expected
    for offset in (16, 32, 48):  # memory of arrays is at a multiple of 16
        assert bits_of_all(*(placed(array, offset) for array in given)) == expected
