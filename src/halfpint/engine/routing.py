"""Which experts a token goes to, and how much each of them counts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from halfpint.engine.activation import softmax
from halfpint.families import ModelConfig
from halfpint.tensors import FloatArray


@dataclass(frozen=True, slots=True)
class Routing:
    """Asks which experts every token goes to.

    Attributes
    ----------
    config : ModelConfig
    logits : float32 [n, experts]
    """

    config: ModelConfig
    logits: FloatArray


@dataclass(frozen=True, slots=True)
class Routes:
    """Answer to a `Routing`.

    Attributes
    ----------
    chosen : int64 [n, experts_per_token]
    shares : float32, the same shape
        How much each counts.
    visited : tuple of int
        Experts to go through, in this order: all that are chosen, and perhaps some that see no token.
    """

    chosen: NDArray[np.int64]
    shares: FloatArray
    visited: tuple[int, ...]


def route(logits: FloatArray, config: ModelConfig) -> Routes:
    """Send every token to its most probable experts.

    Parameters
    ----------
    logits : float32 [n, experts]

    Returns
    -------
    Routes
        The most probable expert first; of equals the one with the smaller number. Only those chosen are visited.
    """
    chosen = np.argsort(-softmax(logits), axis=-1, kind="stable")[:, : config.experts_per_token]
    return Routes(chosen, shares(logits, chosen, config), tuple(np.unique(chosen).tolist()))


def shares(logits: FloatArray, chosen: NDArray[np.int64], config: ModelConfig) -> FloatArray:
    """Give the probabilities of chosen experts, scaled to sum to one if the configuration says so.

    Parameters
    ----------
    logits : float32 [n, experts]
    chosen : int64 [n, experts_per_token]

    Returns
    -------
    float32 [n, experts_per_token]
    """
    probabilities: FloatArray = np.take_along_axis(softmax(logits), chosen, axis=-1)
    if config.normalize_expert_weights:
        probabilities = probabilities / probabilities.sum(axis=-1, keepdims=True)
    return probabilities
