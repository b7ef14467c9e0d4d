"""What comes to the rows of a head: tokens weigh there as much as the model is in doubt about them.

An error e of the logit of a token v costs, to second order, p (1 - p) e^2 / 2 nats of KL divergence where the model
gives v the probability p: nothing wherever v is out of the question. So each row of a head has second moments of its
own, the sum of p (1 - p) x x^T. Rows that are likely after alike texts nearly share them: rows are put into groups by
the mean direction of their weighted inputs (spherical k-means), and each group is solved for the moments of the group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from halfpint.engine.activation import softcap, softmax
from halfpint.kernels.blas import add_outer, add_square, combine, mirror, times_transposed
from halfpint.solvers.statistics import Moments, RowGroup, Statistics
from halfpint.tensors import FloatArray

_ROWS_PER_GROUP = 128
MOST_GROUPS = 16
"""Groups that the rows of a head are put into at most."""
MOST_SUM_BYTES = 512 * 2**20
"""What the sums of all groups take at most, but for the first: wide models have fewer groups."""
# For telling rows apart, evenly spread batches of about so many tokens will do.
_TELLING_TOKENS = 8192
_ROUNDS = 20
_LOGITS_AT_A_TIME = 4_000_000


@dataclass(frozen=True, slots=True)
class HeadInput:
    """What came to the head in one batch.

    Attributes
    ----------
    half : int
        Of the text.
    original, quantized : float32 [n, columns]
        In both streams; the same array where there is but one.
    """

    half: int
    original: FloatArray
    quantized: FloatArray


def row_groups(
    weight: FloatArray, inputs: Sequence[HeadInput], cap: float = 0.0, embedding_share: float = 0.0
) -> tuple[RowGroup, ...]:
    """Put the rows of a head into groups, and sum up what comes to each.

    Parameters
    ----------
    weight : float32 [rows, columns]
        The original's head.
    inputs : sequence of HeadInput
    cap : float
        Logits are bent by `softcap` to this; 0 for none.
    embedding_share : float
        Share of the mean diagonal that is added to the diagonal for a head that is the embedding as well: there an
        error counts in whatever direction it points.

    Returns
    -------
    tuple of RowGroup
        Every row is in one of them. Moments are shrunk towards those of all tokens together, the more the fewer tokens
        a group really has; shifts are there if the streams differ. Scaled to a mean diagonal of one a token.
    """
    labels = _labels(weight, inputs, cap)
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    sums = _sums(weight, inputs, cap, members)
    everything = [_scaled(half) for half in sums.pop()]
    groups = []
    for rows in members:
        # Sums go as moments come: both at once would be much memory.
        first, last = (_shrunk(half, whole, weight[rows]) for half, whole in zip(sums.pop(0), everything, strict=True))
        for half in (first, last):
            diagonal = np.einsum("ii->i", half.second)
            diagonal += np.float32(embedding_share) * diagonal.mean()
        groups.append(RowGroup(rows, Statistics((first, last))))
    return tuple(groups)


@dataclass(slots=True)
class _Sums:
    """Weighted sums over tokens: x x^T, (original - x) x^T, the weights and their squares."""

    second: FloatArray
    difference: FloatArray | None
    weights: float = 0.0
    squares: float = 0.0
    tokens: int = 0

    @classmethod
    def empty(cls, columns: int, shifted: bool) -> _Sums:
        square = np.zeros((columns, columns), np.float32)
        return cls(square, np.zeros_like(square) if shifted else None)

    def add(self, part: HeadInput, rows: slice, weights: FloatArray) -> None:
        """Take in tokens of a part, each with its weight: float32 [n]."""
        root = np.sqrt(weights)[:, np.newaxis]
        x = part.quantized[rows] * root
        add_square(self.second, x)
        if self.difference is not None:
            add_outer(self.difference, (part.original[rows] - part.quantized[rows]) * root, x)
        self.weights += float(weights.sum(dtype=np.float64))
        self.squares += float(np.square(weights, dtype=np.float64).sum())
        self.tokens += len(x)

    def effective_tokens(self) -> float:
        """As many tokens of equal weight would know as much (Kish)."""
        return self.weights**2 / self.squares if self.squares > 0 else 0.0


def _probabilities(weight: FloatArray, x: FloatArray, cap: float) -> FloatArray:
    return softmax(softcap(times_transposed(x, weight), cap))


def _doubts(weight: FloatArray, part: HeadInput, rows: slice, cap: float) -> FloatArray:
    """Give p (1 - p) for every token of a slice and every row of the head: float32 [n, rows]."""
    probabilities = _probabilities(weight, part.original[rows], cap)
    return probabilities * (1 - probabilities)


def _slices(weight: FloatArray, part: HeadInput) -> list[slice]:
    step = max(64, _LOGITS_AT_A_TIME // len(weight))
    return [slice(start, start + step) for start in range(0, len(part.original), step)]


def _labels(weight: FloatArray, inputs: Sequence[HeadInput], cap: float) -> NDArray[np.int64]:
    """Group of each row, int64 [rows]."""
    # Two halves of two sums each.
    affordable = MOST_SUM_BYTES // (16 * weight.shape[1] ** 2) - 1
    count = min(MOST_GROUPS, len(weight) // _ROWS_PER_GROUP, affordable)
    if count < 2:
        return np.zeros(len(weight), np.int64)
    directions = np.zeros(weight.shape, np.float32)
    tokens = sum(len(part.original) for part in inputs)
    for part in inputs[:: max(1, tokens // _TELLING_TOKENS)]:
        for rows in _slices(weight, part):
            add_outer(directions, _doubts(weight, part, rows, cap), part.original[rows])
    lengths = np.linalg.norm(directions, axis=1, keepdims=True)
    return _cluster(np.asarray(directions / np.where(lengths > 0, lengths, 1), np.float32), count)


def _cluster(directions: FloatArray, count: int) -> NDArray[np.int64]:
    """Spherical k-means from evenly spread starts: the same groups every time."""
    centres = directions[np.linspace(0, len(directions) - 1, count).astype(np.int64)].copy()
    labels = np.full(len(directions), -1, np.int64)
    for _ in range(_ROUNDS):
        nearest = times_transposed(directions, centres).argmax(axis=1)
        if (nearest == labels).all():
            break
        labels = nearest
        for label in range(count):
            mean = directions[labels == label].sum(axis=0)
            length = float(np.linalg.norm(mean))
            if length > 0:
                centres[label] = mean / length
    return labels


def _sums(
    weight: FloatArray, inputs: Sequence[HeadInput], cap: float, members: Sequence[NDArray[np.int64]]
) -> list[tuple[_Sums, _Sums]]:
    """Sums of each group in both halves, and of all tokens with equal weights at the end."""
    columns = weight.shape[1]
    shifted = any(part.original is not part.quantized for part in inputs)
    sums = [(_Sums.empty(columns, shifted), _Sums.empty(columns, shifted)) for _ in range(len(members) + 1)]
    for part in inputs:
        for rows in _slices(weight, part):
            doubts = _doubts(weight, part, rows, cap)
            for group, halves in zip(members, sums, strict=False):
                halves[part.half].add(part, rows, doubts[:, group].sum(axis=1))
            sums[-1][part.half].add(part, rows, np.ones(len(doubts), np.float32))
    for halves in sums:
        for half in halves:
            mirror(half.second)
    return sums


def _scaled(sums: _Sums) -> _Sums:
    """Scale to a mean diagonal of one a token."""
    mean = float(np.trace(sums.second, dtype=np.float64)) / len(sums.second)
    scale = np.float32(sums.tokens / mean if mean > 0 else 0)
    difference = None if sums.difference is None else sums.difference * scale
    return _Sums(sums.second * scale, difference, sums.weights, sums.squares, sums.tokens)


def _shrunk(sums: _Sums, everything: _Sums, weight: FloatArray) -> Moments:
    """Mix the moments of a group with those of all tokens: half and half where it has a token for each column."""
    own = sums.effective_tokens()
    share = np.float32(own / (own + len(sums.second)))
    scaled = _scaled(sums)
    second = share * scaled.second + (1 - share) * everything.second
    shift = None
    if scaled.difference is not None and everything.difference is not None:
        shift = combine(weight, share * scaled.difference + (1 - share) * everything.difference)
    return Moments(second, shift, sums.tokens)
