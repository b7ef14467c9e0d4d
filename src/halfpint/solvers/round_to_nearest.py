"""Codes without feedback: the nearest ones, and what they cost, judged on no more rows than it takes.

The squared error of a layer's output is a sum over rows of what is never negative. So where a part of the rows costs
more than all of them do with feedback, rounding alone is known to be worse, and is not tried on the other rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from math import inf
from typing import NamedTuple

import numpy as np

from halfpint import kernels
from halfpint.errors import NonFiniteError, ShapeError
from halfpint.kernels.machine import side_by_side
from halfpint.solvers import rows
from halfpint.tensors import Float64Array, FloatArray, Format, QuantizedTensor

STEPS = ("nearest", "weighted")
"""Codes of the weight as it is, and those of the wished one, with each column's error weighted by its input's size."""

_PARTS = 4
# Columns of a strip of moments that is multiplied at a time.
_STRIP = 512


@dataclass(frozen=True, slots=True)
class LayerObjective:
    """What is asked of some rows.

    Attributes
    ----------
    weight, target : float32 [rows, columns]
        As it is, and as it is wished to be: the squared error of outputs against this one is the measure.
    moments : float32 [columns, columns]
        Of mean diagonal 1.
    fmt : Format
    """

    weight: FloatArray
    target: FloatArray
    moments: FloatArray
    fmt: Format

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.weight.shape[0], self.weight.shape[1]

    def rows(self, chosen: slice) -> LayerObjective:
        """What is asked of some of the rows."""
        weight, target = (np.ascontiguousarray(each[chosen]) for each in (self.weight, self.target))
        return replace(self, weight=weight, target=target)

    def losses(self, candidate: QuantizedTensor) -> Float64Array:
        """What each row costs with these codes: float64 [rows]."""
        return row_losses(self.target - kernels.decode(candidate), self.moments)

    def energies(self) -> Float64Array:
        """What each row of the weight as it is comes to, in the measure of the losses: float64 [rows]."""
        return row_losses(self.weight, self.moments)


class Judged(NamedTuple):
    """What rounding alone comes to.

    Attributes
    ----------
    losses : Mapping of str to float
        Step -> loss as a share of the energy, over the rows that were looked at.
    better : str or None
        The step that costs less than what it was held against; None if there is none.
    """

    losses: Mapping[str, float]
    better: str | None


def row_losses(error: FloatArray, moments: FloatArray) -> Float64Array:
    """Row by row e H e^T of an error [rows, columns] and symmetric moments H [columns, columns]: float64 [rows]."""
    losses = np.zeros(len(error))
    for start in range(0, error.shape[1], _STRIP):
        strip = error[:, start : start + _STRIP]
        # What is left of the diagonal counts twice, and half of the products is saved.
        image = np.float32(2) * (error[:, :start] @ moments[:start, start : start + _STRIP])
        image += strip @ moments[start : start + _STRIP, start : start + _STRIP]
        losses += np.einsum("rc,rc->r", image, strip, dtype=np.float64)
    return losses


def judge(wish: LayerObjective, energies: Float64Array, bound: float = inf) -> Judged:
    """Round rows until it is known that rounding alone is worse.

    Parameters
    ----------
    wish : LayerObjective
    energies : float64 [rows]
        Of the weight as it is.
    bound : float
        The loss of all rows that is to be beaten; of infinity, all rows are looked at.
    """
    sums, energy = dict.fromkeys(STEPS, 0.0), 0.0
    parts = _PARTS if rows.apart(wish.fmt, wish.shape) else 1
    for part in range(parts):
        chosen = [slice(run.start + part, run.stop, parts) for run in rows.slices(wish.fmt, wish.shape)]
        chosen = [run for run in chosen if run.start < run.stop]
        for run, found in zip(chosen, side_by_side([partial(_losses, wish, run) for run in chosen]), strict=True):
            energy += float(energies[run].sum())
            for step in STEPS:
                sums[step] += found[step]
        if min(sums.values()) >= bound:
            break
    better = min(reversed(STEPS), key=lambda step: sums[step])
    known = bound == inf or sums[better] < bound
    return Judged(shares(sums, energy), better if known else None)


def shares(losses: Mapping[str, float], energy: float) -> dict[str, float]:
    """Losses as shares of an energy; 0 where there is none."""
    return {step: loss / energy if energy > 0 else 0.0 for step, loss in losses.items()}


def rounded(wish: LayerObjective, step: str) -> QuantizedTensor:
    """Round all rows."""
    runs = rows.slices(wish.fmt, wish.shape)
    pieces = side_by_side([partial(_encode, wish.rows(run), step) for run in runs])
    return rows.assemble(wish.fmt, wish.shape, [*zip(runs, pieces, strict=True)])


@np.errstate(over="ignore", invalid="ignore")  # each thread has settings of its own
def _losses(wish: LayerObjective, run: slice) -> dict[str, float]:
    part = wish.rows(run)
    return {step: float(part.losses(_encode(part, step)).sum()) for step in STEPS}


@np.errstate(over="ignore", invalid="ignore")
def _encode(wish: LayerObjective, step: str) -> QuantizedTensor:
    if step == "nearest":
        return kernels.encode(wish.weight, wish.fmt)
    importance = np.diagonal(wish.moments).copy()
    try:
        return kernels.encode(wish.target, wish.fmt, importance)
    except (ShapeError, NonFiniteError):
        # The correction, not the weight, is beyond the format.
        return kernels.encode(wish.weight, wish.fmt, importance)
