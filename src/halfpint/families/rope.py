"""Rotary position embeddings as data: the base, the rotated dimensions, and how frequencies are stretched.

Everywhere in halfpint rows of query and key weights are in Hugging Face's order, in which dimension `i` of a head
is rotated together with dimension `i + dimensions / 2` ("rotate half"). Containers that store another order (GGUF
for Llama) convert when reading and writing.

Sources: RoFormer (arXiv 2104.09864); linear scaling (arXiv 2306.15595); YaRN (arXiv 2309.00071); LongRoPE (arXiv
2402.13753); the Llama 3.1 model card; conventions as in transformers 5's `modeling_rope_utils`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from halfpint.tensors import FloatArray


@dataclass(frozen=True, slots=True)
class LinearScaling:
    """Every frequency is divided by `factor`."""

    factor: float


@dataclass(frozen=True, slots=True)
class Llama3:
    """Long wavelengths are divided by `factor`, short ones kept, those between are blended."""

    factor: float
    low_frequency_factor: float
    high_frequency_factor: float
    original_positions: int


@dataclass(frozen=True, slots=True)
class Yarn:
    """Frequencies are blended by the number of turns they make in the original context.

    `attention_factor` multiplies cosines and sines.
    """

    factor: float
    original_positions: int
    beta_fast: float
    beta_slow: float
    attention_factor: float
    truncate: bool


@dataclass(frozen=True, slots=True)
class LongRope:
    """Every frequency has its own divisor: one list up to `original_positions`, another beyond."""

    short_factors: tuple[float, ...]
    long_factors: tuple[float, ...]
    original_positions: int
    attention_factor: float


@dataclass(frozen=True, slots=True)
class Dynamic:
    """The base grows with the text beyond `original_positions` ("dynamic NTK"); up to there nothing is stretched."""

    factor: float
    original_positions: int


Scaling = LinearScaling | Llama3 | Yarn | LongRope | Dynamic | None


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary embedding of one kind of layer.

    Attributes
    ----------
    theta : float
        Base of the wavelengths.
    dimensions : int
        Rotated dimensions of each head, counted from its first; the others pass unchanged.
    scaling : Scaling
        How frequencies are stretched; None when they are not.
    """

    theta: float
    dimensions: int
    scaling: Scaling = None

    @property
    def attention_factor(self) -> float:
        """What cosines and sines are multiplied by."""
        return self.scaling.attention_factor if isinstance(self.scaling, Yarn | LongRope) else 1.0


def inverse_frequencies(rope: Rope, positions: int) -> FloatArray:
    """Angle per position of each rotated pair.

    Parameters
    ----------
    rope : Rope
        The embedding.
    positions : int
        Length of the whole text; only `LongRope` and `Dynamic` look at it.

    Returns
    -------
    float32 [dimensions / 2]
    """
    exponents = np.arange(0, rope.dimensions, 2, dtype=np.float32) / np.float32(rope.dimensions)
    plain: FloatArray = (1.0 / np.power(np.float32(_base(rope, positions)), exponents)).astype(np.float32)
    return (plain / divisors(rope, positions)).astype(np.float32)


def stretch(rope: Rope, positions: int) -> int:
    """What a text's length does to the frequencies: equal numbers mean equal frequencies.

    Frequencies are a property of the whole text, not of the piece of it that is read: where this number changes as a
    text grows, keys that were rotated before are no longer right.
    """
    scaling = rope.scaling
    if isinstance(scaling, LongRope):
        return int(positions > scaling.original_positions)
    if isinstance(scaling, Dynamic):
        return max(positions, scaling.original_positions)
    return 0


def _base(rope: Rope, positions: int) -> float:
    if not isinstance(rope.scaling, Dynamic):
        return rope.theta
    scaling, dimensions = rope.scaling, rope.dimensions
    ratio = max(positions, scaling.original_positions) / scaling.original_positions
    grown: float = (scaling.factor * ratio - (scaling.factor - 1)) ** (dimensions / (dimensions - 2))
    return rope.theta * grown


def divisors(rope: Rope, positions: int) -> FloatArray:
    """What scaling divides each plain frequency by; GGUF's `rope_freqs` and `rope_factors_*` tensors hold these.

    Returns
    -------
    float32 [dimensions / 2]
    """
    pairs = rope.dimensions // 2
    match rope.scaling:
        case None | Dynamic():
            return np.ones(pairs, np.float32)
        case LinearScaling(factor):
            return np.full(pairs, factor, np.float32)
        case Llama3():
            return _llama3_divisors(rope.theta, pairs, rope.scaling)
        case Yarn():
            return _yarn_divisors(rope.theta, pairs, rope.scaling)
        case LongRope():
            beyond = positions > rope.scaling.original_positions
            return np.array(rope.scaling.long_factors if beyond else rope.scaling.short_factors, np.float32)


def _wavelengths(theta: float, pairs: int) -> NDArray[np.float64]:
    return 2 * math.pi * np.power(theta, np.arange(pairs) / pairs)


def _llama3_divisors(theta: float, pairs: int, scaling: Llama3) -> FloatArray:
    wavelengths = _wavelengths(theta, pairs)
    turns = scaling.original_positions / wavelengths
    kept = (turns - scaling.low_frequency_factor) / (scaling.high_frequency_factor - scaling.low_frequency_factor)
    kept = np.clip(kept, 0.0, 1.0)
    return (1.0 / ((1.0 - kept) / scaling.factor + kept)).astype(np.float32)


def _yarn_divisors(theta: float, pairs: int, scaling: Yarn) -> FloatArray:
    dimensions = 2 * pairs

    def pair_that_turns(times: float) -> float:
        """Index of the pair that makes this many turns in the original context."""
        return dimensions * math.log(scaling.original_positions / (times * 2 * math.pi)) / (2 * math.log(theta))

    first, last = pair_that_turns(scaling.beta_fast), pair_that_turns(scaling.beta_slow)
    if scaling.truncate:
        first, last = float(math.floor(first)), float(math.ceil(last))
    first, last = max(first, 0.0), min(last, dimensions - 1.0)
    if first == last:
        last += 0.001  # the reference does the same, to keep the ramp finite
    stretched = np.clip((np.arange(pairs) - first) / (last - first), 0.0, 1.0)
    result: FloatArray = (1.0 / (stretched / scaling.factor + (1.0 - stretched))).astype(np.float32)
    return result
