"""Native feedback and refinement: the bits of the reference, on every instruction set and number of threads."""

import numpy as np
import pytest

from halfpint import formats, kernels
from halfpint.kernels import _native
from halfpint.solvers import native_solving, reference, scalar_grids
from halfpint.solvers.factor import feedback_factor, live
from solvers.layers import inputs, weight
from ugly_weights import kinds

NAMES = [
    *("q8_0", "q4_0", "q4_1", "q5_1", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_nl", "iq4_xs"),
    *("int2-g16", "int4-g128", "int4-g32-asym", "int3-g64-asym-bf16", "int5-g256-fp32", "int8", "int4-asym"),
    *("nf4", "mxfp4", "nvfp4", "fp8", "fp8-block"),
]


def same_grid(left, right):
    for name in ("indices", "scale", "minimum", "subscale", "submin"):
        assert np.array_equal(getattr(left, name), getattr(right, name)), name


def case(name, rows=21, columns=256, seed=1, values=None):
    """A weight, second moments of its input, and the grid of its nearest codes."""
    original = weight(rows, columns, seed) if values is None else values
    x = inputs(original.shape[1], 600)
    return original, live(x.T @ x), scalar_grids.read(kernels.encode(original, formats.by_name(name)))


def assert_same_feedback(original, moments, grid):
    factor = feedback_factor(moments, 0.01)
    with np.errstate(over="ignore"):
        indices, errors = reference.feed_back(original, factor, grid)
    made = native_solving.feed_back(original, factor, grid)
    assert np.array_equal(made[0], indices)
    assert np.array_equal(made[1], errors)


def assert_same_refinement(original, moments, grid, rounds=2):
    gradient = (original - grid.values()) @ moments
    with np.errstate(over="ignore"):
        wanted, wanted_change = reference.refine(grid, gradient, moments, rounds)
    found, change = native_solving.refine(grid, gradient, moments, rounds)
    same_grid(found, wanted)
    assert np.array_equal(change, wanted_change)


@pytest.mark.parametrize("name", NAMES)
def test_both_loops_have_the_bits_of_the_reference_on_every_instruction_set(isa, name):
    original, moments, grid = case(name)
    assert_same_feedback(original, moments, grid)
    assert_same_refinement(original, moments, grid)


@pytest.mark.parametrize("name", ["q4_k", "q4_1", "q6_k", "int4-g32-asym", "int8", "nf4", "mxfp4", "nvfp4", "fp8"])
def test_ugly_weights_have_the_bits_of_the_reference(name):
    for kind, values in kinds(rows=3, columns=256):
        if kind != "denormal":  # products of numbers below 2**-126 may be flushed
            original, moments, grid = case(name, values=values)
            assert_same_feedback(original, moments, grid)
            assert_same_refinement(original, moments, grid)


@pytest.mark.parametrize("name", ["int4-g128", "int4-g64-asym", "nf4"])
@pytest.mark.parametrize("columns", [1, 130, 200])
def test_short_last_groups_have_the_bits_of_the_reference(name, columns):
    original, moments, grid = case(name, rows=17, columns=columns)
    assert_same_feedback(original, moments, grid)
    assert_same_refinement(original, moments, grid)


@pytest.mark.parametrize("name", ["q4_k", "int4-g32-asym"])
def test_the_number_of_threads_changes_nothing(threads, name):
    original, moments, grid = case(name, rows=100)
    gradient = (original - grid.values()) @ moments
    results = []
    for count in (1, 2, 7):
        threads(count)
        results.append(native_solving.refine(grid, gradient, moments, 1))
        results[-1] = (*results[-1], *native_solving.feed_back(original, feedback_factor(moments, 0.01), grid))
    for refined, *arrays in results[1:]:
        same_grid(refined, results[0][0])
        assert all(np.array_equal(*pair) for pair in zip(arrays, results[0][1:], strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_refinement_lowers_the_loss_and_tells_what_it_changed(name):
    original, moments, grid = case(name)
    gradient = (original - grid.values()) @ moments
    kept = grid.copy()
    refined, change = native_solving.refine(grid, gradient, moments, 2)
    same_grid(grid, kept)
    assert np.abs(refined.values() - grid.values() - change).max() <= 1e-6 * np.abs(original).max()
    before, after = (
        np.einsum("rc,rc->r", error @ moments, error)
        for error in (original - grid.values(), original - refined.values())
    )
    assert (after <= before * (1 + 1e-4)).all()
    assert after.sum() < 0.9 * before.sum()


def test_arrays_that_do_not_fit_are_refused():
    original, moments, grid = case("q4_k")
    described = native_solving.described(grid.lattice)
    arrays = [grid.indices, grid.scale, grid.minimum, grid.subscale, grid.submin]
    short = [arrays[0], np.zeros((21, 2), np.float32), *arrays[2:]]
    beyond = [np.full((21, 256), 16, np.uint8), *arrays[1:]]
    for bad in (short, beyond):
        indices, scale, minimum, subscale, submin = bad
        with pytest.raises(ValueError, match=r"scales must be|beyond the levels"):
            _native.refine(
                described, original, moments, 1, indices, (scale, minimum), (subscale, submin), np.empty_like(original)
            )
