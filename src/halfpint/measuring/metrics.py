"""KL divergence, top-1 agreement and perplexity, with standard errors.

Neighbouring tokens share their context, so they are not independent: every standard error treats a window of text
as one draw (the cluster-robust estimate of a ratio of sums), not a token. Few windows say little of their own spread,
so a standard error is as large as it must be for mean ± 1.96 errors to be an interval of 95 %, whatever their number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from halfpint.tensors import Float64Array, FloatArray

# The normal law's quantile for an interval of 95 %.
_NORMAL = 1.959963984540054
_HALVINGS = 56
# Simpson's weights on an even number of intervals.
_SIMPSON = np.array([1, *([4, 2] * 500)[:-1], 1]) / 3


@dataclass(frozen=True, slots=True)
class TokenScores:
    """What one predicted token says, for every token of a window.

    Attributes
    ----------
    kl : float64 [tokens]
        KL(original || quantized) of the next-token distributions, in nats; 0 where they are equal.
    agrees : bool [tokens]
        Whether both put the same token first.
    reference_loss, candidate_loss : float64 [tokens]
        -log p of the token that the text has, in nats.
    """

    kl: Float64Array
    agrees: NDArray[np.bool_]
    reference_loss: Float64Array
    candidate_loss: Float64Array


def score(reference: FloatArray, candidate: FloatArray, targets: NDArray[np.int64]) -> TokenScores:
    """Compare two models' logits for the same positions.

    Parameters
    ----------
    reference, candidate : float32 [tokens, vocabulary]
    targets : int64 [tokens]
        The token that the text has next.

    Returns
    -------
    TokenScores
        Computed in float64. Identical logits give a KL of exactly 0.
    """
    log_p = log_softmax(reference)
    log_q = log_softmax(candidate)
    kl = np.einsum("tv,tv->t", np.exp(log_p), log_p - log_q)
    rows = np.arange(len(targets))
    return TokenScores(
        # KL is never negative; rounding can make it so by 1e-16.
        kl=np.maximum(kl, 0.0),
        agrees=reference.argmax(axis=1) == candidate.argmax(axis=1),
        reference_loss=-log_p[rows, targets],
        candidate_loss=-log_q[rows, targets],
    )


def log_softmax(logits: FloatArray) -> Float64Array:
    """Natural logarithms of the softmax over the last axis, in float64."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=-1, keepdims=True)
    result: Float64Array = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean and its standard error: mean ± 1.96 standard errors is an interval of 95 %."""

    mean: float
    stderr: float


def clustered_mean(values: Float64Array, windows: NDArray[np.int64]) -> Estimate:
    """Mean over tokens, with the standard error of a mean over windows.

    Parameters
    ----------
    values : float64 [tokens]
    windows : int64 [tokens]
        Which window each token belongs to.

    Returns
    -------
    Estimate
        `stderr` is that of the mean times `small_sample_factor`; NaN with fewer than two windows: one draw says
        nothing of its spread.
    """
    mean = float(values.mean())
    sums = np.bincount(windows, weights=values - mean)
    sums = sums[np.bincount(windows) > 0]
    clusters = len(sums)
    if clusters < 2:
        return Estimate(mean, math.nan)
    spread = clusters / (clusters - 1) * float(np.square(sums).sum())
    return Estimate(mean, math.sqrt(spread) / len(values) * small_sample_factor(clusters))


def small_sample_factor(windows: int) -> float:
    """How much wider an interval must be because its width is itself estimated, from so many windows.

    Returns
    -------
    float
        The 97.5 % quantile of Student's t with `windows / 2` degrees of freedom (at least one), as a multiple of the
        normal law's 1.96: 2.19 for 4 windows, 1.18 for 16, near 1 for hundreds.

    Notes
    -----
    `windows - 1` degrees would do for windows that are independent and normal. Those of a text are neither: means of
    neighbours are correlated by about 0.2, and KL has a long right tail. With half as many degrees the intervals of 4
    to 16 windows of real text hold the mean of ten times as much text in 95 to 97 of 100 random samples; the normal
    quantile does in 82 to 93 (benchmarks/interval_coverage.py).
    """
    return _students_t(max(1.0, windows / 2)) / _NORMAL


@lru_cache
def _students_t(freedom: float) -> float:
    """The 97.5 % quantile of Student's t; with t = sqrt(freedom) tan(angle), the density is a power of the cosine."""
    scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(math.pi)
    low, high = 0.0, math.pi / 2
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        angles = np.linspace(0.0, middle, _SIMPSON.size)
        inside = scale * middle / (_SIMPSON.size - 1) * float(_SIMPSON @ np.cos(angles) ** (freedom - 1))
        low, high = (middle, high) if inside < 0.475 else (low, middle)
    return math.sqrt(freedom) * math.tan(low)


@dataclass(frozen=True, slots=True)
class Quality:
    """How far a candidate is from its reference; the fields of `measure --json`.

    KL in nats per token; agreement as a fraction; every `_stderr` is one standard error.
    """

    tokens: int
    kl_mean: float
    kl_mean_stderr: float
    kl_median: float
    kl_p99: float
    kl_p999: float
    kl_max: float
    top1_agreement: float
    top1_agreement_stderr: float
    perplexity: float
    perplexity_stderr: float
    reference_perplexity: float
    reference_perplexity_stderr: float
    perplexity_ratio: float
    perplexity_ratio_stderr: float


@dataclass(slots=True)
class Tally:
    """Scores gathered window by window; `quality` sums them up."""

    scores: list[TokenScores] = field(default_factory=list)
    window_numbers: list[NDArray[np.int64]] = field(default_factory=list)
    sources: dict[str, list[int]] = field(default_factory=dict)

    def add(self, window: int, source: str, scores: TokenScores) -> None:
        """Take in the scores of (a part of) one window."""
        self.sources.setdefault(source, []).append(len(self.scores))
        self.scores.append(scores)
        self.window_numbers.append(np.full(len(scores.kl), window, dtype=np.int64))

    def quality(self, source: str | None = None) -> Quality:
        """Summary over all windows, or over those of one source."""
        chosen = range(len(self.scores)) if source is None else self.sources[source]
        windows = np.concatenate([self.window_numbers[i] for i in chosen])
        kl = np.concatenate([self.scores[i].kl for i in chosen])
        agrees = np.concatenate([self.scores[i].agrees for i in chosen]).astype(np.float64)
        reference = np.concatenate([self.scores[i].reference_loss for i in chosen])
        candidate = np.concatenate([self.scores[i].candidate_loss for i in chosen])
        return summarise(kl, agrees, reference, candidate, windows)


def summarise(
    kl: Float64Array,
    agrees: Float64Array,
    reference_loss: Float64Array,
    candidate_loss: Float64Array,
    windows: NDArray[np.int64],
) -> Quality:
    """Turn per-token scores into a `Quality`; all arrays are [tokens]."""
    kl_mean = clustered_mean(kl, windows)
    agreement = clustered_mean(agrees, windows)
    candidate = clustered_mean(candidate_loss, windows)
    reference = clustered_mean(reference_loss, windows)
    # The two losses of a token move together, so the ratio is far better known than either perplexity.
    difference = clustered_mean(candidate_loss - reference_loss, windows)
    median, p99, p999 = (float(value) for value in np.quantile(kl, [0.5, 0.99, 0.999]))
    ratio, perplexity, reference_perplexity = map(_exp, (difference.mean, candidate.mean, reference.mean))
    return Quality(
        tokens=len(kl),
        kl_mean=kl_mean.mean,
        kl_mean_stderr=kl_mean.stderr,
        kl_median=median,
        kl_p99=p99,
        kl_p999=p999,
        kl_max=float(kl.max()),
        top1_agreement=agreement.mean,
        top1_agreement_stderr=agreement.stderr,
        perplexity=perplexity,
        perplexity_stderr=perplexity * candidate.stderr,
        reference_perplexity=reference_perplexity,
        reference_perplexity_stderr=reference_perplexity * reference.stderr,
        perplexity_ratio=ratio,
        perplexity_ratio_stderr=ratio * difference.stderr,
    )


def _exp(value: float) -> float:
    """Like `math.exp`, with infinity for what is beyond a float: a model may be as wrong as it likes."""
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf
