"""What a solver may know of a weight's input: sums over the tokens of a text, mergeable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from halfpint.tensors import FloatArray, QuantizedTensor


@dataclass(slots=True)
class Moments:
    """Sums over some tokens, for the input x of one weight W as the already quantized prefix of the model gives it.

    Attributes
    ----------
    second : float32 [columns, columns]
        Sum of x x^T. Weights that share an input share this array: it must not be changed in place by a reader.
    shift : float32 [rows, columns] or None
        Sum of (y - W x) x^T, y being the output that is wished for: what the original model computes there. None
        where there is no difference to make up for.
    tokens : int
    """

    second: FloatArray
    shift: FloatArray | None = None
    tokens: int = 0

    @classmethod
    def empty(cls, columns: int) -> Moments:
        """Of no tokens yet."""
        return cls(np.zeros((columns, columns), dtype=np.float32))

    def add(self, x: FloatArray) -> None:
        """Take in inputs, float32 [n, columns]."""
        self.second += x.T @ x
        self.tokens += len(x)

    def __add__(self, other: Moments) -> Moments:
        """Both together, as new arrays."""
        assert (self.shift is None) == (other.shift is None)
        shift = None if self.shift is None or other.shift is None else self.shift + other.shift
        return Moments(self.second + other.second, shift, self.tokens + other.tokens)


@dataclass(frozen=True, slots=True)
class Statistics:
    """The tokens of a text in two halves, so that what is fitted on one can be judged on the other.

    Attributes
    ----------
    halves : tuple of two Moments
        Of alternate windows of the text.
    row_counts : int64 [rows] or None
        For an embedding, how often each row was looked up.
    groups : tuple of RowGroup
        For a head, whose rows do not see the same input: what each group of rows sees. Empty elsewhere.
    """

    halves: tuple[Moments, Moments]
    row_counts: NDArray[np.int64] | None = None
    groups: tuple[RowGroup, ...] = ()

    @classmethod
    def empty(cls, columns: int) -> Statistics:
        """Of no tokens yet."""
        return cls((Moments.empty(columns), Moments.empty(columns)))

    @property
    def tokens(self) -> int:
        """In both halves."""
        return self.halves[0].tokens + self.halves[1].tokens

    def second(self) -> FloatArray:
        """Second moments of both halves together, as a new array."""
        return self.halves[0].second + self.halves[1].second

    def total(self) -> Moments:
        """Both halves together, as new arrays."""
        return self.halves[0] + self.halves[1]


@dataclass(frozen=True, slots=True)
class RowGroup:
    """Rows of a weight that see one input.

    Attributes
    ----------
    rows : int64 [n]
        Which they are, ascending.
    statistics : Statistics
        Of their input; shifts have a row for each of them.
    """

    rows: NDArray[np.int64]
    statistics: Statistics


@dataclass(frozen=True, slots=True)
class Solved:
    """The codes of a weight, and what each step on the way to them was worth.

    Attributes
    ----------
    quantized : QuantizedTensor
    losses : Mapping of str to float
        Expected squared error of the outputs as a share of their energy, tr(E H E^T) / tr(W H W^T), after each step, in
        the order of the steps; empty without statistics.
    note : str
        What was done instead of what was asked, and why; empty when nothing was.
    """

    quantized: QuantizedTensor
    losses: Mapping[str, float] = field(default_factory=dict)
    note: str = ""
