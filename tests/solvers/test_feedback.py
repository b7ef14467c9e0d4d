"""Error feedback: exact about its factor, never worse than nearest codes in its measure, and better where it can be."""

import numpy as np
import pytest

from halfpint import formats, kernels
from halfpint.solvers import SOLVERS, feedback, needs_moments
from halfpint.solvers.statistics import Moments, Statistics

FORMATS = ["q8_0", "q4_0", "q5_1", "q2_k", "q3_k", "q4_k", "q6_k", "iq4_nl", "iq4_xs", "int4-g128", "int3-g32", "int8"]


def layer(columns=256, rows=64, seed=0):
    """A weight and the inputs of a layer whose columns are far from independent."""
    generator = np.random.default_rng(seed)
    mixing = np.eye(columns) + 0.15 * generator.standard_normal((columns, columns))
    inputs = (generator.standard_normal((2000, columns)) @ mixing).astype(np.float32)
    weight = (generator.standard_normal((rows, columns)) * 0.02).astype(np.float32)
    return weight, inputs.T @ inputs


def statistics(moments):
    """The same moments in two halves."""
    return Statistics((Moments(moments / 2, None, 1000), Moments(moments / 2, None, 1000)))


def normalised(moments):
    """Second moments with a mean diagonal of one, unless all are zero."""
    unit = moments.astype(np.float64)
    return unit / max(float(np.trace(unit)) / len(unit), np.finfo(np.float64).tiny)


def test_the_factor_is_that_of_the_damped_inverse():
    _, moments = layer()
    moments = moments.astype(np.float64) / np.trace(moments) * len(moments)
    factor = feedback.feedback_factor(moments).astype(np.float64)
    damped = moments + 0.01 * np.eye(len(moments))
    assert np.abs(factor.T @ factor @ damped - np.eye(len(moments))).max() < 1e-4
    assert not np.tril(factor, -1).any()


@pytest.mark.parametrize("name", FORMATS)
def test_feedback_keeps_outputs_closer_than_nearest_codes(name):
    weight, moments = layer()
    fmt = formats.by_name(name)
    unit = normalised(moments)
    nearest = kernels.encode(weight, fmt, np.diagonal(unit).astype(np.float32))
    solved = feedback.solve(weight, statistics(moments), fmt).quantized
    assert feedback.proxy_loss(weight, solved, unit) < 0.85 * feedback.proxy_loss(weight, nearest, unit)
    assert {k: (v.shape, v.dtype) for k, v in solved.parts.items()} == {
        k: (p.shape, p.dtype) for k, p in fmt.parts(*weight.shape).items()
    }


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("kind", ["no text", "one token", "dead columns", "equal columns"])
def test_no_moments_make_it_fail_or_worse_than_nearest(name, kind):
    weight, moments = layer(rows=16)
    if kind == "no text":
        moments[...] = 0
    elif kind == "one token":
        x = np.random.default_rng(1).standard_normal(256).astype(np.float32)
        moments = np.outer(x, x)
    elif kind == "dead columns":
        moments[::3] = 0
        moments[:, ::3] = 0
    else:
        moments[...] = 1
    fmt = formats.by_name(name)
    solved = feedback.solve(weight, statistics(moments), fmt).quantized
    assert np.isfinite(kernels.decode(solved)).all()
    unit = normalised(moments)
    nearest = kernels.encode(weight, fmt, np.diagonal(unit).astype(np.float32))
    loss = feedback.proxy_loss(weight, nearest, unit)
    assert feedback.proxy_loss(weight, solved, unit) <= loss * (1 + 1e-6)


def test_the_inputs_are_not_changed():
    weight, moments = layer(rows=8)
    before = weight.copy(), moments.copy()
    feedback.solve(weight, statistics(moments), formats.by_name("q4_k"))
    assert (weight == before[0]).all()
    assert (moments == before[1]).all()


def test_the_table_says_what_each_solver_needs():
    assert {name: needs_moments(name) for name in (*SOLVERS, "copy")} == {
        "nearest": False,
        "feedback": True,
        "copy": False,
    }
