"""The second half of a block: a gated product, or a few experts chosen per token."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from halfpint.engine.routing import Routes, Routing
from halfpint.engine.steps import Held, Products, Steps
from halfpint.engine.weights import Parts, Projection
from halfpint.families import ModelConfig, Role
from halfpint.kernels.elementwise import gated
from halfpint.tensors import FloatArray


def mlp(parts: Parts, config: ModelConfig, inner: Callable[[], FloatArray], residual: Held | None) -> Steps:
    """Go through the block's MLP or mixture of experts.

    Parameters
    ----------
    parts : Parts
    config : ModelConfig
    inner : function
        Computes the input, float32 [n, hidden].
    residual : Held or None
        What the output is added to as it is; None when it is normed first.

    Returns
    -------
    Steps
        Returning float32 [n, hidden].
    """
    if parts.experts:
        return (yield from _mixture(parts, config, inner()))
    projections = parts.projections
    fused = projections.get(Role.MLP_GATE_UP)
    down = (projections[Role.MLP_DOWN],)
    # Nested, so that nothing but the request holds its input while this waits.
    outputs: Sequence[FloatArray]
    if fused is None:
        first = (projections[Role.MLP_GATE], projections[Role.MLP_UP])
        outputs = yield Products(down, _gated(config, (yield _first(first, config, inner()))), residual)
    else:
        outputs = yield Products(down, _split(config, (yield Products((fused,), inner()))), residual)
    return outputs[0]


def _first(projections: tuple[Projection, Projection], config: ModelConfig, x: FloatArray) -> Products:
    """Ask for a gate and its partner, whose outputs will be gated."""
    return Products(projections, x, gated_by=config.activation)


def _gated(config: ModelConfig, outputs: Sequence[FloatArray]) -> FloatArray:
    """Activate the gate's output and multiply it with the other, unless who answered has done it."""
    if len(outputs) == 1:
        return outputs[0]
    gates, ups = outputs
    # In place: fresh pages for as much would take longer than the arithmetic.
    return gated(config.activation, gates, ups, gates if gates.flags.c_contiguous else None)


def _split(config: ModelConfig, outputs: Sequence[FloatArray]) -> FloatArray:
    """The same of one output that holds both side by side."""
    gate, up = np.split(outputs[0], 2, axis=-1)
    return gated(config.activation, gate, up)


def _mixture(parts: Parts, config: ModelConfig, x: FloatArray) -> Steps:
    """Go through the experts one after the other; the input and the sum of outputs are held meanwhile."""
    (logits,) = yield Products((parts.projections[Role.ROUTER],), x)
    routes: Routes = yield Routing(config, logits)
    out = np.zeros_like(x)
    for expert in routes.visited:
        tokens, places = np.nonzero(routes.chosen == expert)
        first = (parts.experts[Role.EXPERT_GATE, expert], parts.experts[Role.EXPERT_UP, expert])
        down = (parts.experts[Role.EXPERT_DOWN, expert],)
        (outputs,) = yield Products(down, _gated(config, (yield _first(first, config, x[tokens]))))
        out[tokens] += outputs * routes.shares[tokens, places, np.newaxis]
    return out
