"""Error feedback with everything around it: a corrected target, feedback, and sweeps that refine.

The error of a layer's output is tr(E H E^T), H being the second moments of its input and E what the codes miss of the
wished weight. Three candidates are made, each from the one before: nearest codes under scales that weight each column
by its H_jj; codes by error feedback (`rounding`); those after refinement (`refinement`). The one with the least error
is kept, so that a format, a text or a matrix on which a step fails costs nothing but its time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from halfpint import kernels
from halfpint.errors import NonFiniteError, ShapeError
from halfpint.kernels.machine import side_by_side
from halfpint.solvers import lattices, refinement, rounding, rows
from halfpint.solvers.factor import DAMPING
from halfpint.solvers.lattices import supports
from halfpint.solvers.statistics import Solved, Statistics
from halfpint.solvers.target import choose_correction, wished_weight
from halfpint.tensors import FloatArray, Format, QuantizedTensor

# Columns of a strip of moments that is multiplied at a time.
_STRIP = 512

__all__ = ["proxy_loss", "solve", "solve_unrefined", "solve_weighted", "supports"]


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
        with its correction, as a share of tr(W H W^T) of the weight as it is. `note` says when no second moments could
        be factored, and the weighted nearest codes were taken.
    """
    return _solve(weight, statistics, fmt, refinement.SWEEPS)


def solve_unrefined(weight: FloatArray, statistics: Statistics | None, fmt: Format) -> Solved:
    """As `solve`, without the last step."""
    return _solve(weight, statistics, fmt, 0)


def solve_weighted(weight: FloatArray, statistics: Statistics | None, fmt: Format) -> Solved:
    """Encode a weight as it is, each column's error weighted by how large that column's input is."""
    assert statistics is not None
    task = _Task(weight, weight, statistics.scaled().moments, fmt)
    answer = _answer(task)
    return Solved(answer.candidates["weighted"], _shares(answer.losses, answer.energy))


def proxy_loss(error: FloatArray, moments: FloatArray) -> float:
    """tr(E H E^T) of an error E [rows, columns] and symmetric moments H [columns, columns]."""
    loss = 0.0
    for start in range(0, error.shape[1], _STRIP):
        strip = error[:, start : start + _STRIP]
        # What is left of the diagonal counts twice, and half of the products is saved.
        image = np.float32(2) * (error[:, :start] @ moments[:start, start : start + _STRIP])
        image += strip @ moments[start : start + _STRIP, start : start + _STRIP]
        loss += float(np.einsum("rc,rc->", image, strip, dtype=np.float64))
    return loss


@dataclass(frozen=True, slots=True)
class _Task:
    """What is asked for some rows of a weight, and what they have in common.

    Attributes
    ----------
    weight, target : float32 [rows, columns]
        As it is, and as it is wished to be: the squared error of outputs against this one is the measure.
    moments : float32 [columns, columns]
        Of mean diagonal 1.
    fmt : Format
    course : Course or None
        None where the moments have no factor: then there is no feedback.
    sweeps : int
        Of refinement.
    """

    weight: FloatArray
    target: FloatArray
    moments: FloatArray
    fmt: Format
    course: rounding.Course | None = None
    sweeps: int = 0

    def rows(self, chosen: slice) -> _Task:
        return replace(self, weight=self.weight[chosen], target=self.target[chosen])

    def loss(self, candidate: QuantizedTensor) -> float:
        return proxy_loss(self.target - kernels.decode(candidate), self.moments)


@dataclass(frozen=True, slots=True)
class _Answer:
    """Candidates for some rows, by the step that made them, the loss of each, and the weight's own energy."""

    candidates: Mapping[str, QuantizedTensor]
    losses: Mapping[str, float]
    energy: float


@np.errstate(over="ignore", invalid="ignore")  # what is not finite is found by its consequences, and told with a name
def _solve(weight: FloatArray, statistics: Statistics | None, fmt: Format, sweeps: int) -> Solved:
    assert statistics is not None
    assert supports(fmt)
    if statistics.groups and rows.apart(fmt, weight.shape):
        return rows.solve_groups(partial(_solve, sweeps=sweeps), weight, statistics.groups, fmt)
    target = wished_weight(weight, statistics, choose_correction(weight, statistics))
    task = _Task(weight, target, statistics.scaled().moments, fmt, None, sweeps)
    for damping in DAMPING:
        course = rounding.course(statistics, damping, fmt)
        if course is None:
            continue
        try:
            return _side_by_side(replace(task, course=course))
        except (ShapeError, NonFiniteError):
            del course  # before another is made
    solved = _side_by_side(task)
    note = (
        "the second moments of the input have no factor even with their mean added to the diagonal: "
        "codes are the nearest ones, weighted by the input's size"
    )
    return replace(solved, note=note)


def _side_by_side(task: _Task) -> Solved:
    """Answer a task in slices of rows, and take the candidate whose loss is the least over all of them."""
    shape = (task.weight.shape[0], task.weight.shape[1])
    slices = rows.slices(task.fmt, shape)
    answers = side_by_side([partial(_answer, task.rows(chosen)) for chosen in slices])
    energy = sum(answer.energy for answer in answers)
    sums = {name: sum(answer.losses[name] for answer in answers) for name in answers[0].losses}
    best = min(reversed(sums), key=lambda name: sums[name])
    pieces = [(chosen, answer.candidates[best]) for chosen, answer in zip(slices, answers, strict=True)]
    return Solved(rows.assemble(task.fmt, shape, pieces), _shares(sums, energy))


def _shares(losses: Mapping[str, float], energy: float) -> Mapping[str, float]:
    return {name: loss / energy if energy > 0 else 0.0 for name, loss in losses.items()}


@np.errstate(over="ignore", invalid="ignore")  # each thread has settings of its own
def _answer(task: _Task) -> _Answer:
    candidates = {"nearest": kernels.encode(task.weight, task.fmt), "weighted": _weighted(task)}
    losses = {name: task.loss(candidate) for name, candidate in candidates.items()}
    if task.course is not None:
        fed = candidates["feedback"] = rounding.feed_back(task.target, task.course, task.fmt)
        if task.sweeps:
            done = refinement.refine(task.target, lattices.read(fed), task.moments, DAMPING[0], task.sweeps)
            candidates["refined"] = lattices.write(done.grid, fed)
            losses |= {"feedback": done.loss + done.gain, "refined": done.loss}
        else:
            losses["feedback"] = task.loss(fed)
    return _Answer(candidates, losses, proxy_loss(task.weight, task.moments))


def _weighted(task: _Task) -> QuantizedTensor:
    importance = np.diagonal(task.moments).copy()
    try:
        return kernels.encode(task.target, task.fmt, importance)
    except (ShapeError, NonFiniteError):
        # The correction, not the weight, is beyond the format.
        return kernels.encode(task.weight, task.fmt, importance)
