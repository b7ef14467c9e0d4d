"""The search for a group's scale, shared by every format whose codes multiply one scale.

For fixed codes the best scale is closed form, sum(h x q) / sum(h q q); for a fixed scale the best codes are the
nearest ones. Formats propose scales, coarsely spaced and then finely around the best; closed-form refits end the
search. The winner has the smallest true weighted error, computed with the scale as it will be stored.

Everything here works on [positions, groups]: one column a group, so that every sum runs over positions in a fixed
order and a native kernel with a group in each lane gives the same bytes. No NumPy reduction decides anything: how
those pair their terms depends on the version and the processor.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from halfpint.tensors import Array, FloatArray

Quantize = Callable[[FloatArray, FloatArray], FloatArray]
"""(weights divided by their scale [positions, groups], zero points [groups]) -> levels as stored, same shape."""

Store = Callable[[FloatArray], FloatArray]
"""Scales [groups], of either sign -> the same as they will read back from the file, never 0 and never infinite."""

_EXPONENT_LIMIT = 126


@dataclass(frozen=True, slots=True)
class Groups:
    """A weight cut into groups, each brought to a largest magnitude in [1, 2) by a power of two.

    The powers are exact, and keep squared errors of any weight (1e-30, 1e30) inside float32's range.

    Attributes
    ----------
    x : float32 [positions, groups]
        Weights divided by `unit`; 0 where the importance is 0, since no error counts there.
    h : float32 [positions, groups]
        Weights of the squared errors, their largest in [1, 2) too; all ones for a group without importance.
    unit : float32 [groups]
        What x was divided by.
    """

    x: FloatArray
    h: FloatArray
    unit: FloatArray

    @property
    def peaks(self) -> FloatArray:
        """[groups]: the value of largest magnitude, with its sign; the first one among equals."""
        rows = np.abs(self.x).argmax(axis=0)
        peaks: FloatArray = np.take_along_axis(self.x, rows[np.newaxis], axis=0)[0]
        return peaks

    @property
    def empty(self) -> Array:
        """[groups], bool: nothing in the group counts."""
        return np.asarray(~self.x.any(axis=0))

    def scaled(self, weight: FloatArray, scale: FloatArray) -> FloatArray:
        """Divide all weights by their scales: also those without importance, which `x` holds as 0."""
        with np.errstate(over="ignore"):
            scaled: FloatArray = weight * (np.float32(1) / self.unit) * (np.float32(1) / scale)
        return scaled


def prepare(weight: FloatArray, importance: FloatArray) -> Groups:
    """Bring grouped weights and importances (both [positions, groups], importances not negative) to magnitude 1."""
    h = importance.copy()
    h[:, ~h.any(axis=0)] = 1.0
    x = np.where(h > 0, weight, np.float32(0))
    unit = power_of_two(np.abs(x).max(axis=0, initial=0))
    h *= np.float32(1) / power_of_two(h.max(axis=0, initial=0))
    x *= np.float32(1) / unit
    return Groups(x, h, unit)


def power_of_two(magnitude: FloatArray) -> FloatArray:
    """Give the largest power of two not above each magnitude, float32, between 2**-126 and 2**126; 1 for 0."""
    exponents = np.where(magnitude > 0, np.frexp(magnitude)[1] - 1, 0)
    limited = np.clip(exponents, -_EXPONENT_LIMIT, _EXPONENT_LIMIT)
    powers: FloatArray = np.ldexp(np.float32(1), limited).astype(np.float32)
    return powers


def to_groups(values: Array, size: int) -> Array:
    """[rows, columns] -> [size, rows * groups]; a short last group is filled with zeros."""
    rows, columns = values.shape
    groups = -(-columns // size)
    if groups * size != columns:
        padded = np.zeros((rows, groups * size), dtype=values.dtype)
        padded[:, :columns] = values
        values = padded
    return np.ascontiguousarray(values.reshape(rows * groups, size).T)


def from_groups(values: Array, rows: int, columns: int) -> Array:
    """[size, rows * groups] -> [rows, columns], the filling dropped."""
    return np.ascontiguousarray(values.T.reshape(rows, -1)[:, :columns])


def spread_importance(importance: Array | None, shape: tuple[int, int]) -> FloatArray:
    """Weights of the squared error as float32 [rows, columns], from None, [columns] or [rows, columns]."""
    if importance is None:
        return np.ones(shape, dtype=np.float32)
    return np.broadcast_to(np.asarray(importance, dtype=np.float32), shape)


def ordered_sum(values: FloatArray) -> FloatArray:
    """Sum over positions, first to last, in float32: the order that native lanes use."""
    total = np.zeros(values.shape[1:], dtype=np.float32)
    for row in values:
        total += row
    return total


class Best:
    """The best scale (and zero point) of each group among those considered so far.

    Attributes
    ----------
    groups : Groups
        What is searched.
    scale, zero : float32 [groups]
        The winners. The scale is in units of `Groups.unit`.
    error : float32 [groups]
        Their weighted squared errors.
    """

    def __init__(self, groups: Groups, quantize: Quantize) -> None:
        count = groups.x.shape[1]
        self.groups = groups
        self._quantize = quantize
        self.scale = np.ones(count, dtype=np.float32)
        self.zero = np.zeros(count, dtype=np.float32)
        self.error = np.full(count, np.inf, dtype=np.float32)

    def levels(self, scale: FloatArray, zero: FloatArray) -> FloatArray:
        """Nearest levels of all weights under the given scales and zero points, [positions, groups]."""
        return self._quantize(self.groups.x * (np.float32(1) / scale), zero)

    def consider(self, scale: FloatArray, zero: FloatArray) -> None:
        """Take these scales where they have a smaller error; among equals the first considered stays."""
        difference = self.groups.x - scale * self.levels(scale, zero)
        error = ordered_sum(self.groups.h * difference * difference)
        better = error < self.error
        self.scale[better], self.zero[better], self.error[better] = scale[better], zero[better], error[better]

    def refit(self) -> FloatArray:
        """Closed-form best scales for the codes that the winners give; the winners' own where there is none."""
        levels = self.levels(self.scale, self.zero)
        products = ordered_sum(self.groups.h * self.groups.x * levels)
        norms = ordered_sum(self.groups.h * levels * levels)
        known = (norms > 0) & (products * self.scale > 0)
        refitted: FloatArray = np.where(known, products / np.where(known, norms, np.float32(1)), self.scale)
        return refitted


@dataclass(frozen=True, slots=True)
class SearchGrid:
    """Where the scales of a format are searched: plain numbers, so that a native kernel follows the same path.

    Attributes
    ----------
    starts : tuple of (float32, float32)
        What the format makes its first scales of.
    rounds : tuple of tuple of (float32, float32)
        Rounds of (factor of the best scale so far, offset of its zero point).
    refits : int
        Closed-form refits at the end.
    """

    starts: tuple[tuple[np.float32, np.float32], ...]
    rounds: tuple[tuple[tuple[np.float32, np.float32], ...], ...] = ()
    refits: int = 0


Start = Callable[[np.float32, np.float32], tuple[FloatArray, FloatArray]]
"""Two numbers of a grid -> scales as stored, and zero points, to consider first; both [groups]."""


def follow(best: Best, grid: SearchGrid, start: Start, store: Store, highest_zero: float = 0) -> None:
    """Consider all scales of a grid: starts, rounds of steps around the best, refits. Empty groups get scale 1."""
    for first, second in grid.starts:
        best.consider(*start(first, second))
    for around in grid.rounds:
        centre, zero = best.scale.copy(), best.zero.copy()
        for factor, offset in around:
            best.consider(store(centre * factor), np.clip(zero + offset, np.float32(0), np.float32(highest_zero)))
    for _ in range(grid.refits):
        best.consider(store(best.refit()), best.zero.copy())
    empty = best.groups.empty
    best.scale[empty], best.zero[empty] = store(np.float32(1) / best.groups.unit)[empty], 0


def ratios_of_top(base: FloatArray, store: Store) -> Start:
    """Start from multiples of a scale, without zero points."""
    return lambda ratio, _: (store(base * ratio), np.zeros_like(base))


def geometric(start: float, step: float, count: int) -> tuple[np.float32, ...]:
    """Return start, start * step, ...: by multiplication, whose rounding is the same everywhere, unlike pow's."""
    values = [start]
    for _ in range(count - 1):
        values.append(values[-1] * step)
    return tuple(np.float32(value) for value in values)


def storable(dtype: np.dtype[Any], unit: FloatArray) -> Store:
    """Round scales in units of `unit` to what a dtype can hold, keeping the sign.

    What underflows becomes the smallest number that is safe to divide by, what overflows the largest finite one.
    """
    smallest, largest = scale_limits(dtype)
    inverse = np.float32(1) / unit

    def store(scale: FloatArray) -> FloatArray:
        with np.errstate(over="ignore", under="ignore"):
            magnitude = (np.abs(scale) * unit).astype(dtype).astype(np.float32)
            kept = np.clip(magnitude, smallest, largest) * inverse
        return np.copysign(kept, scale)

    return store


def scale_limits(dtype: np.dtype[Any]) -> tuple[np.float32, np.float32]:
    """Smallest and largest magnitude of a scale: float16's subnormals count, other types' have no finite inverse."""
    unsigned = np.dtype(f"<u{dtype.itemsize}")
    infinity = np.array(np.inf, dtype=dtype).view(unsigned)
    largest = np.array(infinity - 1, dtype=unsigned).view(dtype).astype(np.float32)
    smallest = 2.0**-24 if dtype == np.float16 else 2.0**-_EXPONENT_LIMIT
    return np.float32(smallest), np.float32(largest)
