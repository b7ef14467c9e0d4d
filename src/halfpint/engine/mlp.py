"""The second half of a block: a gated product, or a few experts chosen per token."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from halfpint.engine.routing import Routes, Routing
from halfpint.engine.steps import Held, Products, Steps
from halfpint.engine.weights import Parts
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
    first = (projections[Role.MLP_GATE], projections[Role.MLP_UP]) if fused is None else (fused,)
    # Nested, so that nothing but the request holds its input while this waits.
    outputs: Sequence[FloatArray] = yield Products(
        (projections[Role.MLP_DOWN],), _gated(config, (yield Products(first, inner()))), residual
    )
    return outputs[0]


def _gated(config: ModelConfig, outputs: Sequence[FloatArray]) -> FloatArray:
    """Activate the gate's output and multiply it with the other; one output holds both side by side."""
    gate, up = outputs if len(outputs) == 2 else np.split(outputs[0], 2, axis=-1)
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
        (outputs,) = yield Products(down, _gated(config, (yield Products(first, x[tokens]))))
        out[tokens] += outputs * routes.shares[tokens, places, np.newaxis]
    return out
