"""The feedback factor is exact, and says so when there is none."""

import numpy as np
import pytest

from halfpint.solvers.factor import feedback_factor, live
from solvers.layers import inputs


@pytest.mark.parametrize("columns", [1, 7, 96, 97, 400])
@pytest.mark.parametrize("damping", [0.01, 0.3])
def test_the_factor_is_that_of_the_damped_inverse(columns, damping):
    x = inputs(columns)
    moments = live(x.T @ x)
    factor = feedback_factor(moments, damping)
    assert factor is not None
    assert not np.tril(factor, -1).any()
    damped = moments.astype(np.float64) + damping * np.eye(columns)
    assert np.abs(factor.T.astype(np.float64) @ factor @ damped - np.eye(columns)).max() < 1e-4


def test_moments_are_scaled_to_a_mean_diagonal_of_one():
    x = inputs(40)
    x[:, 3] = 0
    moments = live(x.T @ x)
    diagonal = np.diagonal(moments)
    assert np.delete(diagonal, 3).mean() == pytest.approx(1, rel=1e-5)
    assert diagonal[3] == 1
    assert not np.delete(moments[3], 3).any()


def test_no_input_at_all_is_the_identity():
    assert (live(np.zeros((5, 5), np.float32)) == np.eye(5)).all()


def test_there_is_no_factor_of_what_is_not_positive_definite():
    assert feedback_factor(np.diag(np.array([1, -2, 1], np.float32)), 0.01) is None
    assert feedback_factor(np.full((3, 3), np.nan, np.float32), 0.01) is None
