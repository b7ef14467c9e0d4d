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


def assert_close(found, expected):
    assert found.shape == expected.shape
    assert found.dtype == np.float32
    assert np.abs(found - expected).max(initial=0) <= 1e-5 * max(1.0, np.abs(expected).max(initial=0))


@pytest.mark.parametrize(("n", "rows", "columns"), SIZES)
def test_activations_times_a_weight(n, rows, columns):
    x, weight = arrays((n, columns), (rows, columns))
    assert_close(times_transposed(x, weight), x.astype(np.float64) @ weight.T)


@pytest.mark.parametrize(("n", "rows", "columns"), SIZES)
def test_a_weight_times_a_matrix(n, rows, columns):
    weight, inner = arrays((rows, columns), (columns, max(n, 16)))
    assert_close(combine(weight, inner), weight.astype(np.float64) @ inner)


@pytest.mark.parametrize(("n", "rows", "columns"), SIZES)
def test_outer_products_are_added(n, rows, columns):
    y, x, total = arrays((n, rows), (n, columns), (rows, columns))
    expected = total + y.astype(np.float64).T @ x
    add_outer(total, y, x)
    assert_close(total, expected)


@pytest.mark.parametrize(("n", "columns"), [(n, columns) for n, _, columns in SIZES] + [(70, 2500)])
def test_squares_are_added_to_one_triangle_and_mirrored(n, columns):
    (x,) = arrays((n, columns))
    total = np.zeros((columns, columns), np.float32)
    add_square(total, x)
    add_square(total, x)
    mirror(total)
    assert np.array_equal(total, total.T)
    assert_close(total, 2 * x.astype(np.float64).T @ x)


@pytest.mark.parametrize("columns", [20, machine.WIDE_COLUMNS + 40])
def test_a_square_matrix_is_ordered_anew(columns):
    (square,) = arrays((columns, columns))
    order = np.random.default_rng(1).permutation(columns)
    assert np.array_equal(ordered(square, order), square[np.ix_(order, order)])
    assert np.array_equal(ordered(square, None), square)
    assert np.array_equal(added(square, square), 2 * square)


def test_wide_sums_have_the_same_bits_on_any_number_of_threads():
    columns = machine.WIDE_COLUMNS + 40
    x, y = arrays((100, columns), (100, 70))
    assert bits_of_sums(x, y, 1) == bits_of_sums(x, y, 2) == bits_of_sums(x, y, 3)


def bits_of_sums(x, y, threads):
    before = machine.thread_count()
    machine.set_thread_count(threads)
    try:
        with machine.one_blas_thread():
            square, sums = np.zeros((x.shape[1], x.shape[1]), np.float32), np.zeros((70, x.shape[1]), np.float32)
            add_square(square, x)
            mirror(square)
            add_outer(sums, y, x)
            subtract_outer(sums, y[:50], x[:50])
            return square.tobytes(), sums.tobytes()
    finally:
        machine.set_thread_count(before)
