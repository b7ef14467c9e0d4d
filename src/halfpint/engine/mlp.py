"""The second half of a block: a gated product, or a few experts chosen per token."""

from __future__ import annotations

import numpy as np

from halfpint.engine.activation import ACTIVATIONS, softmax
from halfpint.engine.weights import Observe, Parts, Projection
from halfpint.families import ModelConfig, Role
from halfpint.tensors import FloatArray


def mlp(parts: Parts, config: ModelConfig, x: FloatArray, observe: Observe | None) -> FloatArray:
    """Give the block's MLP, or mixture of experts, for x float32 [n, hidden]: the same shape."""
    if parts.experts:
        return _mixture(parts, config, x, observe)
    projections = parts.projections
    fused = projections.get(Role.MLP_GATE_UP)
    if fused is not None:
        gate, up = np.split(fused.forward(x, observe), 2, axis=-1)
    else:
        gate = projections[Role.MLP_GATE].forward(x, observe)
        up = projections[Role.MLP_UP].forward(x, observe)
    return projections[Role.MLP_DOWN].forward(ACTIVATIONS[config.activation](gate) * up, observe)


def route(logits: FloatArray, config: ModelConfig) -> tuple[np.ndarray, FloatArray]:
    """Choose experts.

    Parameters
    ----------
    logits : float32 [n, experts]

    Returns
    -------
    chosen : int64 [n, experts_per_token]
        The most probable first; of equals the one with the smaller number.
    shares : float32, the same shape
        Their probabilities, scaled to sum to one if the configuration says so.
    """
    probabilities = softmax(logits)
    chosen = np.argsort(-probabilities, axis=-1, kind="stable")[:, : config.experts_per_token]
    shares = np.take_along_axis(probabilities, chosen, axis=-1)
    if config.normalize_expert_weights:
        shares = shares / shares.sum(axis=-1, keepdims=True)
    return chosen, shares


def _mixture(parts: Parts, config: ModelConfig, x: FloatArray, observe: Observe | None) -> FloatArray:
    chosen, shares = route(parts.projections[Role.ROUTER].forward(x, observe), config)
    out = np.zeros_like(x)
    for expert in np.unique(chosen):
        tokens, places = np.nonzero(chosen == expert)
        outputs = _expert(parts, config, int(expert), x[tokens], observe)
        out[tokens] += outputs * shares[tokens, places, np.newaxis]
    return out


def _expert(parts: Parts, config: ModelConfig, expert: int, x: FloatArray, observe: Observe | None) -> FloatArray:
    def projection(role: Role) -> Projection:
        return parts.experts[role, expert]

    gate = projection(Role.EXPERT_GATE).forward(x, observe)
    up = projection(Role.EXPERT_UP).forward(x, observe)
    return projection(Role.EXPERT_DOWN).forward(ACTIVATIONS[config.activation](gate) * up, observe)
