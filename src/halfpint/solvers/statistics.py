"""What a solver may know of a weight's input: sums over the tokens of a text, mergeable."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from halfpint.kernels.blas import added, combine
from halfpint.solvers.factor import enliven
from halfpint.tensors import FloatArray, QuantizedTensor

_Thing = TypeVar("_Thing")


@dataclass(slots=True)
class Moments:
    """Sums over some tokens, for the input x of one weight W as the already quantized prefix of the model gives it.

    Attributes
    ----------
    second : float32 [columns, columns]
        Sum of x x^T. Weights that share an input share this array: it must not be changed in place by a reader.
    shift : float32 [rows, columns] or None
        Sum of (y - W x) x^T, y being the output that is wished for: what the original model computes there. None
        where there is no difference to make up for, or `difference` tells of it.
    tokens : int
    difference : float32 [columns, columns] or None
        Sum of (x0 - x) x^T, x0 being the input in the original model: where y is W x0, the shift is W times this, which
        weights that share an input share too.
    """

    second: FloatArray
    shift: FloatArray | None = None
    tokens: int = 0
    difference: FloatArray | None = None

    @classmethod
    def empty(cls, columns: int) -> Moments:
        """Of no tokens yet."""
        return cls(np.zeros((columns, columns), dtype=np.float32))

    def add(self, x: FloatArray) -> None:
        """Take in inputs, float32 [n, columns]."""
        self.second += x.T @ x
        self.tokens += len(x)

    def shift_of(self, weight: FloatArray, rows: NDArray[np.int64] | slice = slice(None)) -> FloatArray | None:
        """Give some rows of the shift of a weight, float32 [rows, columns]: new, or to be left alone."""
        if self.shift is not None:
            return self.shift[rows]
        return None if self.difference is None else combine(weight[rows], self.difference)


class Kept:
    """What was computed of an input, kept for the next weight that has it: one thing under each name."""

    __slots__ = ("_things",)

    def __init__(self) -> None:
        self._things: dict[str, tuple[Hashable, Any]] = {}

    def get(self, name: str, key: Hashable, make: Callable[[], _Thing]) -> _Thing:
        """Give what is kept under a name, or make it where it was made with another key."""
        if name not in self._things or self._things[name][0] != key:
            self._things.pop(name, None)  # its memory may be needed
            self._things[name] = key, make()
        thing: _Thing = self._things[name][1]
        return thing


class Scaled(NamedTuple):
    """Second moments, float32 [columns, columns], as `halfpint.solvers.factor.live` gives them, and their unit."""

    unit: np.float32
    moments: FloatArray


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
    kept : Kept
        For solvers. Weights that share an input share it.
    """

    halves: tuple[Moments, Moments]
    row_counts: NDArray[np.int64] | None = None
    groups: tuple[RowGroup, ...] = ()
    kept: Kept = field(default_factory=Kept, compare=False, repr=False)

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
        return added(self.halves[0].second, self.halves[1].second)

    def scaled(self) -> Scaled:
        """Second moments of both halves together, as solvers want them: kept, and not to be changed."""
        return self.kept.get("moments", None, self._scaled)

    def _scaled(self) -> Scaled:
        moments = self.second()
        return Scaled(enliven(moments), moments)


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
