"""Rounding alone: held against a bound on as many rows as it takes, the answer is that of all rows."""

import numpy as np
import pytest

from halfpint import formats
from halfpint.solvers import round_to_nearest
from halfpint.solvers.factor import live
from solvers.layers import inputs, weight

FORMATS = ["q4_k", "iq4_nl", "int4-g128", "int8", "int3-g64-asym", "nf4", "fp8-block", "nvfp4"]


def wish(name, rows=70, spread=1.0):
    """Rows of sizes that are `spread` apart, on a logarithmic scale."""
    sizes = np.exp(spread * np.random.default_rng(3).standard_normal((rows, 1))).astype(np.float32)
    original = weight(rows, 256) * sizes
    x = inputs()
    return round_to_nearest.LayerObjective(original, original * np.float32(1.01), live(x.T @ x), formats.by_name(name))


def costs(asked):
    """What each step costs over all rows."""
    return {step: float(asked.losses(round_to_nearest.rounded(asked, step)).sum()) for step in round_to_nearest.STEPS}


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("share", [0, 0.05, 0.3, 0.999, 1.001, 3])
def test_a_step_is_better_only_if_it_is_over_all_rows(name, share):
    asked = wish(name)
    all_rows = costs(asked)
    cheapest = min(all_rows, key=all_rows.__getitem__)
    judged = round_to_nearest.judge(asked, asked.energies(), share * all_rows[cheapest])
    assert judged.better == (cheapest if share > 1 else None)
    assert list(judged.losses) == list(round_to_nearest.STEPS)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("rows", [1, 3, 70, 600])
def test_without_a_bound_all_rows_are_told_of(name, rows):
    asked = wish(name, rows)
    judged = round_to_nearest.judge(asked, asked.energies())
    exact = round_to_nearest.shares(costs(asked), float(asked.energies().sum()))
    assert judged.losses == pytest.approx(exact, rel=1e-5)
    assert judged.better == min(exact, key=exact.__getitem__)


def test_few_rows_tell_what_all_of_them_come_to():
    asked = wish("q4_k", 2000, spread=0.3)
    exact = round_to_nearest.shares(costs(asked), float(asked.energies().sum()))
    assert round_to_nearest.judge(asked, asked.energies(), 1e-30).losses == pytest.approx(exact, rel=0.1)


def test_losses_of_rows_are_those_of_the_definition():
    asked = wish("q4_k", 9)
    error, moments = asked.weight.astype(np.float64), asked.moments.astype(np.float64)
    assert round_to_nearest.row_losses(asked.weight, asked.moments) == pytest.approx(
        np.einsum("ri,ij,rj->r", error, moments, error), rel=1e-4
    )
    assert round_to_nearest.row_losses(asked.weight, asked.moments).sum() == pytest.approx(
        np.trace(error @ moments @ error.T), rel=1e-4
    )
