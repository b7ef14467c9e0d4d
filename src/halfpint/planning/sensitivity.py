"""What a format costs a tensor: how far the model's answers move, in nats of KL divergence.

The cost of tensor t in format f is taken to be S_t x error_t(f). `error` is the share of the energy of the tensor's
outputs that rounding turns into noise; S, the tensor's sensitivity, is what a unit of such noise does to the model.
KL is quadratic in small noise, so that costs of different tensors add up (HIGGS, arXiv 2411.17525, its theorem of
linearity); below about three bits they add up to more than their sum, which one measurement of the whole mixture
tells: see `additivity`.
"""

from __future__ import annotations

import functools

import numpy as np

from halfpint import formats, kernels
from halfpint.checkpoints.checkpoint import Checkpoint
from halfpint.planning.candidates import CostOf
from halfpint.tensors import Format

_BELL_ROWS, _BELL_COLUMNS = 16, 1024


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
