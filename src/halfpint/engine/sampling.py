"""From logits to the next token: pure functions, in a fixed order.

The order is that of Hugging Face's `generate`: repetition penalty, temperature, top-k, top-p, min-p, draw.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from halfpint.errors import UsageError
from halfpint.tensors import FloatArray

LEAST_PENALTY, MOST_PENALTY = 0.01, 100.0
"""Bounds of the repetition penalty: far beyond any use, and far from where logits overflow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingOptions:
    """How the next token is chosen.

    Attributes
    ----------
    temperature : float
        Logits are divided by it; 0 takes the most probable token.
    top_k : int
        Only the k most probable tokens stay; 0 keeps all.
    top_p : float
        Only the most probable tokens that together reach this probability stay; 1 keeps all.
    min_p : float
        Only tokens with at least this share of the largest probability stay; 0 keeps all.
    repetition_penalty : float
        Logits of tokens already in the text are divided (positive) or multiplied (negative) by it; from
        `LEAST_PENALTY` to `MOST_PENALTY`.
    seed : int
        Of the random generator.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        checks = (
            (0 <= self.temperature < np.inf, "temperature", "0 or more", self.temperature),
            (self.top_k >= 0, "top_k", "0 or more", self.top_k),
            (0 < self.top_p <= 1, "top_p", "above 0, at most 1", self.top_p),
            (0 <= self.min_p <= 1, "min_p", "from 0 to 1", self.min_p),
            (
                LEAST_PENALTY <= self.repetition_penalty <= MOST_PENALTY,
                "repetition_penalty",
                f"from {LEAST_PENALTY:g} to {MOST_PENALTY:g}",
                self.repetition_penalty,
            ),
            (self.seed >= 0, "seed", "0 or more", self.seed),
        )
        for holds, name, wanted, value in checks:
            if not holds:
                raise UsageError(f"{name} must be {wanted}, got {value}")


def penalize(logits: FloatArray, seen: Sequence[int], penalty: float) -> FloatArray:
    """Make tokens of the text less probable (CTRL, arXiv 1909.05858, 4.1): a copy of `logits` [vocab_size]."""
    if penalty == 1.0 or not seen:
        return logits
    ids = np.unique(np.asarray(seen, np.int64))
    result = logits.copy()
    result[ids] = np.where(result[ids] > 0, result[ids] / penalty, result[ids] * penalty)
    return result


def keep_top_k(logits: FloatArray, count: int) -> FloatArray:
    """Set all but the `count` largest logits to -inf; ties with the smallest of them stay. 0 keeps all."""
    if not 0 < count < logits.size:
        return logits
    threshold = np.partition(logits, -count)[-count]
    return np.where(logits < threshold, np.float32(-np.inf), logits)


def keep_top_p(logits: FloatArray, probability: float) -> FloatArray:
    """Keep the fewest tokens, most probable first, whose probabilities sum to `probability` or more."""
    if probability >= 1.0:
        return logits
    order = np.argsort(-logits, kind="stable")
    before = np.cumsum(_probabilities(logits[order])) - _probabilities(logits[order])
    result = logits.copy()
    result[order[before >= probability]] = -np.inf
    return result


def keep_min_p(logits: FloatArray, share: float) -> FloatArray:
    """Keep tokens with at least `share` times the largest probability."""
    if share <= 0.0:
        return logits
    return np.where(logits < float(logits.max()) + math.log(share), np.float32(-np.inf), logits)


def choose(
    logits: FloatArray, options: SamplingOptions, generator: np.random.Generator, seen: Sequence[int] = ()
) -> int:
    """Choose the next token.

    Parameters
    ----------
    logits : float32 [vocab_size]
        Finite; not changed.
    options : SamplingOptions
        How.
    generator : numpy.random.Generator
        One number is drawn from it unless the temperature is 0.
    seen : sequence of int
        Tokens of the text, for the repetition penalty.

    Returns
    -------
    int
        A token id; at temperature 0 the most probable, of equals the smallest.
    """
    logits = penalize(logits, seen, options.repetition_penalty)
    if options.temperature == 0.0:
        return int(np.argmax(logits))
    # From the largest, which stays 0: at a tiny temperature the others become -inf, whose probability is 0.
    with np.errstate(over="ignore"):
        logits = ((logits - logits.max()) / np.float64(options.temperature)).astype(np.float32)
    logits = keep_top_k(logits, options.top_k)
    logits = keep_top_p(logits, options.top_p)
    logits = keep_min_p(logits, options.min_p)
    cumulative = np.cumsum(_probabilities(logits))
    # Below the last sum even when the product rounds up: the token found is one that was kept.
    drawn = min(generator.random() * cumulative[-1], np.nextafter(cumulative[-1], 0.0))
    return int(np.searchsorted(cumulative, drawn, side="right"))


def _probabilities(logits: FloatArray) -> np.ndarray:
    exponentials = np.exp(logits.astype(np.float64) - logits.max())
    shares: np.ndarray = exponentials / exponentials.sum()
    return shares
