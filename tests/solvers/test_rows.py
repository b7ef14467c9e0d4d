"""Groups of rows solved apart make one weight, each row solved for its own input."""

import numpy as np
import pytest

from halfpint import formats
from halfpint.solvers import feedback, rows
from halfpint.solvers.statistics import Moments, RowGroup, Statistics

ROWS, COLUMNS = 24, 256


def group_of(members, seed):
    x = np.random.default_rng(seed).standard_normal((600, COLUMNS)).astype(np.float32)
    x *= np.linspace(0.2, 2, COLUMNS, dtype=np.float32) if seed % 2 else 1
    return RowGroup(np.array(members), Statistics((Moments(x.T @ x, None, 600), Moments(x.T @ x, None, 600))))


@pytest.mark.parametrize("name", ["q4_k", "iq4_xs", "q3_k", "q8_0", "int4-g128", "int4-g32-asym", "int8", "nf4"])
def test_rows_are_those_that_each_group_gives_alone(name):
    fmt = formats.by_name(name)
    weight = np.random.default_rng(0).standard_normal((ROWS, COLUMNS)).astype(np.float32)
    groups = [group_of(range(0, ROWS, 2), 1), group_of(range(1, ROWS, 2), 2)]
    assert rows.apart(fmt, weight.shape)
    solved = rows.solve_groups(feedback.solve, weight, groups, fmt)
    for group in groups:
        alone = feedback.solve(np.ascontiguousarray(weight[group.rows]), group.statistics, fmt)
        for part, values in alone.quantized.parts.items():
            assert (solved.quantized.parts[part][group.rows] == values).all(), part
        assert solved.losses.keys() == alone.losses.keys()


@pytest.mark.parametrize(("name", "expected"), [("q6_k", True), ("int4-g64-bf16", True), ("fp8-block", False)])
def test_formats_whose_rows_share_something_are_known(name, expected):
    assert rows.apart(formats.by_name(name), (256, 256)) is expected


def test_a_group_of_many_rows_is_solved_in_pieces():
    """Without a correction, which is chosen for all rows of a piece together, rows do not notice."""
    fmt = formats.by_name("q8_0")
    weight = np.random.default_rng(0).standard_normal((rows.MOST_ROWS + 5, 32)).astype(np.float32)
    x = np.random.default_rng(1).standard_normal((100, 32)).astype(np.float32)
    group = RowGroup(np.arange(len(weight)), Statistics((Moments(x.T @ x, None, 100), Moments(x.T @ x, None, 100))))
    cut = rows.solve_groups(feedback.solve, weight, [group], fmt)
    whole = feedback.solve(weight, group.statistics, fmt)
    assert (cut.quantized.parts["blocks"] == whole.quantized.parts["blocks"]).all()
    assert cut.losses == pytest.approx(whole.losses, rel=1e-4)
