"""What a format costs a tensor: how far the model's answers move, in nats of KL divergence.

Tensors are rounded a few at a time, to a low format, in the otherwise original model, and the KL divergence of its
answers is measured; a low format, because its damage stands far above every noise. What another format would cost
follows from how much smaller an error it leaves in the outputs of the same tensors:

    cost(tensor, format) = KL(unit) x error(tensor, format) / sum over the unit of error(tensor, low format)

with `error` the share tr(E H E^T) / tr(W H W^T) of the energy of the tensor's outputs that rounding turns into noise,
for nearest codes under weighted scales. KL is quadratic in small noise, so that costs of different tensors add up (the
linearity theorem of HIGGS, arXiv 2411.17525); below about three bits the whole is more than their sum, by a ratio that
one measurement of the whole mixture tells.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from halfpint import formats, kernels
from halfpint.checkpoints.checkpoint import Checkpoint
from halfpint.planning.candidates import CostOf
from halfpint.tensors import Format

LOW_FORMATS = ("q3_k", "int3-g32")
"""What tensors are rounded to while the answers are watched: the first that a tensor's shape allows."""

_BELL_ROWS, _BELL_COLUMNS = 16, 1024
# No tensor is taken to matter less than this part of what its unit's fellows do per error: a KL below the noise is no
# reason to give a tensor the lowest format there is.
_LEAST_SHARE = 0.05
_DIGITS = 4


@dataclass(frozen=True, slots=True)
class TensorErrors:
    """What each format would do to the outputs of one tensor.

    Attributes
    ----------
    low : Format
        The one of `LOW_FORMATS` that it was rounded to.
    errors : Mapping of str to float
        By format: the share of the outputs' energy that is noise; `low` among them.
    gain : float
        What the job's solver leaves of that error, against nearest codes: 1 for those.
    """

    low: Format
    errors: Mapping[str, float]
    gain: float = 1.0


@dataclass(frozen=True, slots=True)
class Unit:
    """Tensors that were rounded together, and how far the answers moved.

    Attributes
    ----------
    names : tuple of str
    kl : float
        In nats, the noise floor not yet taken off.
    """

    names: tuple[str, ...]
    kl: float


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """Everything that was measured of a model's sensitivity.

    Attributes
    ----------
    units : tuple of Unit
    tensors : Mapping of str to TensorErrors
    floor : float
        KL that the measuring itself makes, where nothing was rounded.
    tokens : int
        That the answers were compared on.
    """

    units: tuple[Unit, ...]
    tensors: Mapping[str, TensorErrors]
    floor: float
    tokens: int


def measured_costs(sensed: Sensitivity) -> CostOf:
    """Costs in nats of KL; errors beyond those that were measured are those of bell-shaped weights.

    Every cost is positive, and rounded to four digits, so that the last bits of a sum, which may depend on the number
    of threads, do not decide.
    """
    rates = {unit: _rate(unit, sensed) for unit in sensed.units}
    typical = median(rates.values()) if rates else 0.0
    per_error = {name: max(rate, _LEAST_SHARE * typical) for unit, rate in rates.items() for name in unit.names}

    def cost_of(name: str, fmt: Format | None) -> float:
        if fmt is None or name not in per_error:
            return 0.0
        tensor = sensed.tensors[name]
        return float(f"{per_error[name] * error_of(tensor, fmt) * tensor.gain:.{_DIGITS}g}")

    return cost_of


def error_of(tensor: TensorErrors, fmt: Format) -> float:
    """What a format does to the outputs: as measured, or scaled from the low format by what both do to a bell curve."""
    if fmt.name in tensor.errors:
        return tensor.errors[fmt.name]
    return tensor.errors[tensor.low.name] * bell_error(fmt) / bell_error(tensor.low)


def _rate(unit: Unit, sensed: Sensitivity) -> float:
    """KL for a unit of error in any tensor of the unit."""
    tensors = [sensed.tensors[name] for name in unit.names]
    errors = sum(tensor.errors[tensor.low.name] for tensor in tensors)
    return max(unit.kl - sensed.floor, 0.0) / errors if errors > 0 else 0.0


def forecast_kl(cost_of: CostOf, chosen: Sequence[tuple[str, Format | None]], additivity: float = 1.0) -> float:
    """KL of a whole mixture: the sum of its costs, times what the whole was found to be more than the sum."""
    return additivity * sum(cost_of(name, fmt) for name, fmt in chosen)


def low_format(rows: int, columns: int) -> Format:
    """Which of `LOW_FORMATS` a tensor of this shape is rounded to."""
    fitting = (formats.by_name(name) for name in LOW_FORMATS)
    return next(fmt for fmt in fitting if fmt.refusal(rows, columns) is None)


def bell_error(fmt: Format) -> float:
    """Squared error of a format as a share of the squared weights, for weights from a bell curve."""
    return _bell_error(fmt.name)


@functools.cache
def _bell_error(name: str) -> float:
    fmt = formats.by_name(name)
    weight = np.random.RandomState(0).standard_normal((_BELL_ROWS, _BELL_COLUMNS)).astype(np.float32)
    difference = weight - kernels.decode(kernels.encode(weight, fmt))
    return float(np.square(difference).sum() / np.square(weight).sum())


def assumed_costs(source: Checkpoint) -> CostOf:
    """Costs without looking at a weight or a text: every parameter matters the same, weights are bell-shaped.

    They order mixtures, and say nothing of KL.
    """
    total = sum(spec.parameters for spec in source.tensors.values())

    def cost_of(name: str, fmt: Format | None) -> float:
        return 0.0 if fmt is None else bell_error(fmt) * source.tensors[name].parameters / total

    return cost_of
