"""Error feedback: never worse than nearest codes in its measure, better where it can be, and each step better."""

from dataclasses import replace

import numpy as np
import pytest

from halfpint import formats, kernels
from halfpint.kernels import machine
from halfpint.solvers import SOLVERS, feedback, needs_moments
from halfpint.solvers.factor import live
from halfpint.solvers.round_to_nearest import row_losses
from halfpint.solvers.statistics import Kept, Moments, Statistics
from solvers.layers import inputs, statistics, weight

GGML = ["q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_nl", "iq4_xs"]
INTEGERS = ["int2-g32", "int3-g64-asym", "int4-g128", "int4-g128-asym-bf16", "int5-g16-asym", "int8", "int4-asym-fp32"]
FORMATS = [*GGML, *INTEGERS, "nf4", "mxfp4", "nvfp4", "fp8", "fp8-block"]
STEPS = ["nearest", "weighted", "feedback", "refined"]


def loss(original, coded, moments):
    return row_losses(original - kernels.decode(coded), moments).sum()


@pytest.mark.parametrize("name", FORMATS)
def test_each_step_keeps_outputs_closer_than_the_one_before(name):
    original, told, fmt = weight(32, 512), statistics(inputs(512)), formats.by_name(name)
    solved = feedback.solve(original, told, fmt)
    assert list(solved.losses) == STEPS
    assert solved.losses["feedback"] < 0.85 * solved.losses["weighted"]
    assert solved.losses["refined"] < solved.losses["feedback"]
    assert not solved.note
    assert {k: (v.shape, v.dtype) for k, v in solved.quantized.parts.items()} == {
        k: (p.shape, p.dtype) for k, p in fmt.parts(*original.shape).items()
    }
    moments = live(told.second())
    share = loss(original, solved.quantized, moments) / row_losses(original, moments).sum()
    assert share == pytest.approx(solved.losses["refined"], rel=1e-4)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("kind", ["no text", "one token", "dead columns", "equal columns"])
def test_no_moments_make_it_fail_or_worse_than_nearest(name, kind):
    original, moments = weight(8, 256), inputs().T @ inputs()
    if kind == "no text":
        moments[...] = 0
    elif kind == "one token":
        moments = np.outer(inputs()[0], inputs()[0])
    elif kind == "dead columns":
        moments[::3] = 0
        moments[:, ::3] = 0
    else:
        moments[...] = 1
    told = Statistics((Moments(moments / 2, None, 1000), Moments(moments / 2, None, 1000)))
    solved = feedback.solve(original, told, formats.by_name(name))
    assert np.isfinite(kernels.decode(solved.quantized)).all()
    assert solved.losses[min(solved.losses, key=solved.losses.__getitem__)] <= solved.losses["weighted"]
    unit = live(moments)
    nearest = kernels.encode(original, formats.by_name(name), np.diagonal(unit).copy())
    assert loss(original, solved.quantized, unit) <= loss(original, nearest, unit) * (1 + 1e-6)


@pytest.mark.parametrize("name", ["q4_k", "int4-g128", "int8"])
def test_a_single_row_and_short_groups_are_solved(name):
    fmt = formats.by_name(name)
    columns = 256 if fmt.refusal(1, 300) else 300
    solved = feedback.solve(weight(1, columns), statistics(inputs(columns)), fmt)
    assert solved.losses["refined"] <= solved.losses["feedback"] < solved.losses["nearest"]


def test_moments_without_a_factor_are_told_of():
    moments = np.diag(np.linspace(1, 2, 256)).astype(np.float32)
    moments[0, 1] = moments[1, 0] = 100
    told = Statistics((Moments(moments, None, 10), Moments(moments, None, 10)))
    solved = feedback.solve(weight(4), told, formats.by_name("q4_k"))
    assert "no factor" in solved.note
    assert list(solved.losses) == ["nearest", "weighted"]


def test_a_drift_of_the_input_is_made_up_for():
    original, x, fmt = weight(64), inputs(tokens=4000), formats.by_name("q4_k")
    seen = x + 0.1 * np.random.default_rng(2).standard_normal(x.shape).astype(np.float32) * np.roll(x, 1, axis=1)
    halves = [
        Moments(s.T @ s, ((t - s) @ original.T).T @ s, len(s)) for s, t in ((seen[i::2], x[i::2]) for i in range(2))
    ]
    with_shift = feedback.solve(original, Statistics((halves[0], halves[1])), fmt).quantized
    without = feedback.solve(original, statistics(seen), fmt).quantized
    wished = x @ original.T
    errors = [np.square(seen @ kernels.decode(each).T - wished).sum() for each in (with_shift, without)]
    assert errors[0] < 0.98 * errors[1]


def test_the_inputs_are_not_changed():
    original, told = weight(8), statistics(inputs(), lambda part: part[:, :8])
    arrays = [original, *(array for half in told.halves for array in (half.second, half.shift))]
    before = [array.copy() for array in arrays]
    feedback.solve(original, told, formats.by_name("q4_k"))
    assert all(np.array_equal(array, copy) for array, copy in zip(arrays, before, strict=True))


@pytest.mark.bits
@pytest.mark.parametrize("columns", [300, machine.WIDE_COLUMNS + 64, machine.WIDE_COLUMNS + 77])
@pytest.mark.parametrize("rows", [1, 7, 130])
def test_a_wide_weight_gets_the_same_codes_on_any_number_of_threads(rows, columns, threads):
    original, told = weight(rows, columns), statistics(inputs(columns), lambda part: part[:, :rows] * 0.01)
    found = []
    for count in (1, 2, 3):
        threads(count)
        solved = feedback.solve(original, replace(told, kept=Kept()), formats.by_name("int4-g128"))
        found.append((solved.losses, {name: part.tobytes() for name, part in solved.quantized.parts.items()}))
    assert found[0] == found[1] == found[2]


@pytest.mark.bits
@pytest.mark.parametrize("name", SOLVERS)
def test_every_solver_gives_the_same_bytes_twice(name):
    original, told = weight(16), statistics(inputs())
    first, second = (SOLVERS[name].solve(original, told, formats.by_name("q3_k")) for _ in range(2))
    assert first.losses == second.losses
    assert np.array_equal(first.quantized.parts["blocks"], second.quantized.parts["blocks"])


def test_the_table_says_what_each_solver_needs():
    assert {name: needs_moments(name) for name in (*SOLVERS, "copy")} == {
        "nearest": False,
        "weighted": True,
        "unrefined": True,
        "feedback": True,
        "copy": False,
    }
