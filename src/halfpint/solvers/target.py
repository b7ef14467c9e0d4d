"""What a weight should be, when its input is no longer the one it was trained for.

The prefix of the model is quantized by then, so that the layer sees x where the original model had another input, and
would give W x where y is wished for. The weight whose outputs come nearest to y is W + (sum (y - W x) x^T) (sum x
x^T)^-1 (as in Qronos, arXiv 2505.11695, and GPTAQ, arXiv 2504.02692). Taken in full it also learns the noise of the
text it was fitted on. How much of it to take, and how strongly to damp it, is therefore asked of the text itself: what
is fitted on one half is judged on the other, in closed form.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np

from halfpint.kernels.blas import added, combine
from halfpint.solvers.factor import live_scale, solve_damped
from halfpint.solvers.statistics import Moments, Statistics
from halfpint.tensors import FloatArray

DAMPING = (1.0, 0.3, 0.1, 0.03)
"""Shares of the mean diagonal of the second moments that are tried, the strongest first."""

# Rows that the choice is made on, evenly spaced: it is one number for the whole tensor.
_ROWS = 32
# Conjugate gradients, each damping starting at the answer of the one before.
_STEPS = 3


@dataclass(frozen=True, slots=True)
class Correction:
    """How much of the difference to make up for.

    Attributes
    ----------
    blend : float
        0 to 1: the part of the damped least-squares correction that is taken.
    damping : float
        Share of the mean diagonal.
    gain : float
        Share of the squared error on the other half, judged on a sample of rows, that the correction saved; 0 when none
        is taken.
    """

    blend: float = 0.0
    damping: float = DAMPING[0]
    gain: float = 0.0


def corrected_weight(weight: FloatArray, statistics: Statistics, choice: Correction) -> FloatArray:
    """Add the chosen correction to a weight, float32 [rows, columns]; the weight itself where there is none."""
    if choice.blend == 0:
        return weight
    blend = np.float32(choice.blend)
    if statistics.halves[0].shift is not None:
        shift = added(*(_not_none(half.shift) for half in statistics.halves))
        change = _solved(statistics, shift, choice.damping)
    else:
        made = partial(_input_correction, statistics, choice.damping)
        inner = statistics.kept.get("correction", choice.damping, made)
        change = None if inner is None else combine(weight, inner)
    if change is None:
        return weight
    change *= blend
    change += weight
    return change


def _input_correction(statistics: Statistics, damping: float) -> FloatArray | None:
    """Give what a weight is multiplied with for its correction, float32 [columns, columns]."""
    first, second = (_not_none(half.difference) for half in statistics.halves)
    return _solved(statistics, added(first, second), damping)


def _solved(statistics: Statistics, shift: FloatArray, damping: float) -> FloatArray | None:
    """Give shift (second + damping)^-1, in the array of the shift."""
    unit, moments = statistics.scaled()
    shift /= unit
    return solve_damped(shift, moments, damping)


def _not_none(array: FloatArray | None) -> FloatArray:
    assert array is not None, "both halves tell of shifts, in the same way"
    return array


def choose_correction(weight: FloatArray, statistics: Statistics) -> Correction:
    """Find the damping and blend whose correction, fitted on one half of the text, saves most on the other half.

    Returns
    -------
    Correction
        Blend 0 where nothing was gained in both directions, or where the statistics know of no difference.

    Notes
    -----
    A change D of the weight, fitted on one half, changes the squared error on the other half, with moments H and shift
    G, by tr(D H D^T) - 2 tr(D G^T). Scaled by a it is least at a = tr(D G^T) / tr(D H D^T).
    """
    first, second = (_sample(half, weight) for half in statistics.halves)
    if first is None or second is None:
        return Correction()
    trials = _held_out(_path(first), second), _held_out(_path(second), first)
    best = Correction()
    for damping, here, there in zip(DAMPING, *trials, strict=True):
        agreement, energy = here.agreement + there.agreement, here.energy + there.energy
        if min(here.agreement, there.agreement) <= 0 or energy <= 0:
            continue
        blend = min(1.0, agreement / energy)
        gain = 2 * blend * agreement - blend * blend * energy
        if gain > best.gain:
            best = Correction(blend, damping, gain)
    return best


@dataclass(frozen=True, slots=True)
class _Half:
    """Second moments of one half; the unit that makes their mean diagonal 1; and the shift of some rows in it."""

    second: FloatArray
    unit: np.float32
    shift: FloatArray

    def image(self, change: FloatArray) -> FloatArray:
        """Multiply by the moments in their unit, float32 [rows, columns]."""
        # They are symmetric, and BLAS is a quarter faster with the large matrix on the left.
        product: FloatArray = combine(self.second, change.T).T / self.unit
        return product


def _sample(half: Moments, weight: FloatArray) -> _Half | None:
    rows = np.linspace(0, len(weight) - 1, min(_ROWS, len(weight))).astype(int)
    shift = half.shift_of(weight, rows)
    if shift is None or not shift.any():
        return None
    unit = live_scale(half.second)
    return _Half(half.second, unit, shift / unit)


class _Judged(NamedTuple):
    """What a half says of a change D fitted on the other one: tr(D G^T) and tr(D H D^T)."""

    agreement: float
    energy: float


def _held_out(changes: Sequence[FloatArray], half: _Half) -> list[_Judged]:
    """Judge changes, float32 [rows, columns] each, all in one product."""
    images = np.split(half.image(np.concatenate(changes)), len(changes))
    return [
        _Judged(float(np.vdot(change, half.shift)), float(np.vdot(image, change)))
        for change, image in zip(changes, images, strict=True)
    ]


def _path(half: _Half) -> list[FloatArray]:
    """Corrections of the sampled rows, one for each damping: shift (second + damping)^-1, by conjugate gradients."""
    change, image = np.zeros_like(half.shift), np.zeros_like(half.shift)
    corrections = []
    for damping in DAMPING:
        residual = half.shift - (image + np.float32(damping) * change)
        direction = residual.copy()
        energy = np.einsum("rc,rc->r", residual, residual)
        for _ in range(_STEPS):
            along = half.image(direction)
            damped = along + np.float32(damping) * direction
            length = _ratio(energy, np.einsum("rc,rc->r", direction, damped))[:, None]
            change = change + length * direction
            image = image + length * along
            residual = residual - length * damped
            rest = np.einsum("rc,rc->r", residual, residual)
            direction = residual + _ratio(rest, energy)[:, None] * direction
            energy = rest
        corrections.append(change)
    return corrections


def _ratio(numerator: FloatArray, denominator: FloatArray) -> FloatArray:
    good = denominator > 0
    quotient: FloatArray = np.where(good, numerator / np.where(good, denominator, np.float32(1)), np.float32(0))
    return quotient
