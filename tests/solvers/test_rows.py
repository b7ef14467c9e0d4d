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
