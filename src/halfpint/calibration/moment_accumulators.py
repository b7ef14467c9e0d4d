"""What one input looks like in two models: sums over tokens, for all weights that have this input."""

from __future__ import annotations

import numpy as np

from halfpint.kernels.blas import add_outer, add_square, mirror, times_transposed
from halfpint.solvers.statistics import Moments, Statistics
from halfpint.tensors import FloatArray

HALVES = 2


class SecondMoments:
    """Sums of x x^T in two halves.

    Parameters
    ----------
    columns : int
    """

    __slots__ = ("_tokens", "_totals")

    def __init__(self, columns: int) -> None:
        self._totals = [np.zeros((columns, columns), np.float32) for _ in range(HALVES)]
        self._tokens = [0] * HALVES

    def add(self, half: int, x: FloatArray) -> None:
        """Take in float32 [n, columns]."""
        add_square(self._totals[half], x)
        self._tokens[half] += len(x)

    @property
    def tokens(self) -> int:
        """In both halves."""
        return sum(self._tokens)

    def finish(self) -> None:
        """All tokens are in."""
        for total in self._totals:
            mirror(total)

    def moments(self, half: int, shift: FloatArray | None = None, difference: FloatArray | None = None) -> Moments:
        """Of one half, after `finish`; all that is given shares the sum."""
        return Moments(self._totals[half], shift, self._tokens[half], difference)


class Gathering:
    """Sums of one input x of the original model and x' of the quantized stream, in two halves.

    Two ways lead to the shift sum (y - W x') x'^T. For y = W x it is W D with D = sum (x - x') x'^T, which all weights
    with this input share. Where y is W x and what the residual streams differ by, or the weight has few rows, it is
    summed as it stands: that costs rows x columns for a token where D costs columns x columns.

    Parameters
    ----------
    columns : int
    weight : float32 [rows, columns] or None
        To sum the shift itself, for this weight alone; None to sum D.

    Attributes
    ----------
    statistics : Statistics or None
        After `finish`, for all weights that have this input; None if there was no token.
    """

    __slots__ = ("_differences", "_seconds", "_weight", "statistics")

    def __init__(self, columns: int, weight: FloatArray | None = None) -> None:
        rows = columns if weight is None else len(weight)
        self._weight = weight
        self._seconds = SecondMoments(columns)
        self.statistics: Statistics | None = None
        self._differences = [np.zeros((rows, columns), np.float32) for _ in range(HALVES)]

    def add(self, half: int, original: FloatArray, quantized: FloatArray, drift: FloatArray | None = None) -> None:
        """Take in tokens.

        Parameters
        ----------
        half : int
            0 or 1.
        original, quantized : float32 [n, columns]
            x and x'.
        drift : float32 [n, rows], optional
            By how much the original's residual stream is ahead; only with a weight.
        """
        if not len(quantized):
            return
        difference = original - quantized
        if self._weight is not None:
            difference = times_transposed(difference, self._weight)
            if drift is not None:
                difference += drift
        add_outer(self._differences[half], difference, quantized)
        self._seconds.add(half, quantized)

    @property
    def tokens(self) -> int:
        """In both halves."""
        return self._seconds.tokens

    def finish(self) -> None:
        """All tokens are in."""
        self._seconds.finish()
        if self.tokens:
            shared = self._weight is None
            first, last = (
                self._seconds.moments(half, *((None, sums) if shared else (sums, None)))
                for half, sums in enumerate(self._differences)
            )
            self.statistics = Statistics((first, last))
