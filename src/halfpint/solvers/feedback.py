"""Error feedback with everything around it: a corrected target, feedback, and sweeps that refine.

The error of a layer's output is tr(E H E^T), H being the second moments of its input and E what the codes miss of the
wished weight. Three candidates are made, each from the one before: nearest codes under scales that weight each column
by its H_jj; codes by error feedback (`rounding`); those after refinement (`refinement`). The one with the least error
is kept, so that a format, a text or a matrix on which a step fails costs nothing but its time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from halfpint.errors import NonFiniteError, ShapeError
from halfpint.kernels.machine import one_blas_thread, side_by_side
from halfpint.solvers import refinement, round_to_nearest, rounding, rows, scalar_grids
from halfpint.solvers.factor import DAMPING
from halfpint.solvers.round_to_nearest import LayerObjective
from halfpint.solvers.scalar_grids import supports
from halfpint.solvers.statistics import Solved, Statistics
from halfpint.solvers.target import choose_correction, corrected_weight
from halfpint.tensors import Float64Array, FloatArray, Format, QuantizedTensor

__all__ = ["solve", "solve_unrefined", "solve_weighted", "supports"]


def solve(weight: FloatArray, statistics: Statistics | None, fmt: Format) -> Solved:
    """Choose codes with error feedback and refinement; never worse, in the proxy tr(E H E^T), than weighted nearest.

    Parameters
    ----------
    weight : float32 [rows, columns]
    statistics : Statistics
        With shifts, if the wished output is not the weight's own.
    fmt : Format
        One that `supports` accepts.

    Returns
    -------
    Solved
        Its losses are `nearest`, `weighted`, `feedback` and `refined`, all measured against the same target: the weight
        with its correction, as a share of tr(W H W^T) of the weight as it is; the first two over as many rows as it
        took to know that they are worse: see
        `halfpint.solvers.round_to_nearest`. `note` says when no second moments could be
        factored, and the weighted nearest codes were taken.
    """
    return _solve(weight, statistics, fmt, refinement.SWEEPS)


def solve_unrefined(weight: FloatArray, statistics: Statistics | None, fmt: Format) -> Solved:
    """As `solve`, without the last step."""
    return _solve(weight, statistics, fmt, 0)


def solve_weighted(weight: FloatArray, statistics: Statistics | None, fmt: Format) -> Solved:
    """Encode a weight as it is, each column's error weighted by how large that column's input is."""
    assert statistics is not None
    wish = LayerObjective(weight, weight, statistics.scaled().moments, fmt)
    coded = {step: round_to_nearest.rounded(wish, step) for step in round_to_nearest.STEPS}
    losses = {step: float(wish.losses(candidate).sum()) for step, candidate in coded.items()}
    return Solved(coded["weighted"], round_to_nearest.shares(losses, float(wish.energies().sum())))


@dataclass(frozen=True, slots=True)
class _Answer:
    """Codes of some rows after each step, their losses, and the energy of each row of the weight as it is."""

    candidates: Mapping[str, QuantizedTensor]
    losses: Mapping[str, float]
    energies: Float64Array


@np.errstate(over="ignore", invalid="ignore")  # what is not finite is found by its consequences, and told with a name
def _solve(weight: FloatArray, statistics: Statistics | None, fmt: Format, sweeps: int) -> Solved:
    assert statistics is not None
    assert supports(fmt)
    with one_blas_thread():
        return _solve_rows(weight, statistics, fmt, sweeps)


def _solve_rows(weight: FloatArray, statistics: Statistics, fmt: Format, sweeps: int) -> Solved:
    if statistics.groups and rows.apart(fmt, weight.shape):
        return rows.solve_groups(partial(_solve, sweeps=sweeps), weight, statistics.groups, fmt)
    target = corrected_weight(weight, statistics, choose_correction(weight, statistics))
    wish = LayerObjective(weight, target, statistics.scaled().moments, fmt)
    for damping in DAMPING:
        course = rounding.course(statistics, damping, fmt)
        if course is None:
            continue
        try:
            return _fed_back(wish, course, sweeps)
        except (ShapeError, NonFiniteError):
            del course  # before another is made
    note = (
        "the second moments of the input have no factor even with their mean added to the diagonal: "
        "codes are the nearest ones, weighted by the input's size"
    )
    judged = round_to_nearest.judge(wish, wish.energies())
    assert judged.better is not None
    return Solved(round_to_nearest.rounded(wish, judged.better), judged.losses, note)


def _fed_back(wish: LayerObjective, course: rounding.FeedbackOrder, sweeps: int) -> Solved:
    """Feed errors back in slices of rows, and take what comes of it unless rounding alone costs less."""
    runs = rows.slices(wish.fmt, wish.shape)
    answers = side_by_side([partial(_answer, wish.rows(run), course, sweeps) for run in runs])
    energies = np.concatenate([answer.energies for answer in answers])
    sums = {step: sum(answer.losses[step] for answer in answers) for step in answers[0].losses}
    best = min(reversed(sums), key=lambda step: sums[step])
    judged = round_to_nearest.judge(wish, energies, sums[best])
    losses = {**judged.losses, **round_to_nearest.shares(sums, float(energies.sum()))}
    if judged.better is not None:
        return Solved(round_to_nearest.rounded(wish, judged.better), losses)
    pieces = [(run, answer.candidates[best]) for run, answer in zip(runs, answers, strict=True)]
    return Solved(rows.assemble(wish.fmt, wish.shape, pieces), losses)


@np.errstate(over="ignore", invalid="ignore")  # each thread has settings of its own
def _answer(wish: LayerObjective, course: rounding.FeedbackOrder, sweeps: int) -> _Answer:
    fed = rounding.feed_back(wish.target, course, wish.fmt)
    if not sweeps:
        return _Answer({"feedback": fed}, {"feedback": float(wish.losses(fed).sum())}, wish.energies())
    done = refinement.refine(wish.target, scalar_grids.read(fed), wish.moments, DAMPING[0], sweeps)
    candidates = {"feedback": fed, "refined": scalar_grids.write(done.grid, fed)}
    return _Answer(candidates, {"feedback": done.loss + done.gain, "refined": done.loss}, wish.energies())
