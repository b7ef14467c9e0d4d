"""What calibration gathers of a layer's input: its second moments, mergeable."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from halfpint.tensors import FloatArray


@dataclass(slots=True)
class SecondMoments:
    """Sum of x x^T over tokens, for the input x of one or several weights.

    Attributes
    ----------
    total : float32 [columns, columns]
    tokens : int
    """

    total: FloatArray
    tokens: int = 0

    @classmethod
    def empty(cls, columns: int) -> SecondMoments:
        """Of no tokens yet."""
        return cls(np.zeros((columns, columns), dtype=np.float32))

    def add(self, x: FloatArray) -> None:
        """Take in inputs, float32 [n, columns]."""
        self.total += x.T @ x
        self.tokens += len(x)

    def merge(self, other: SecondMoments) -> None:
        """Take in what was gathered elsewhere."""
        self.total += other.total
        self.tokens += other.tokens
