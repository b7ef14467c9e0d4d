"""Scales for groups of weights, by weighted least squares from many starts.

Everything here is float32 and sums positions one after the other, with no fused multiply-add, so that the native
encoders, which give one group to each vector lane, make the same roundings and the same bytes.

Arrays are [positions, ...]: what a group's positions hold comes first, any groups and blocks after it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from halfpint.formats.ggml.blocks import IQ4_LEVELS, LARGEST_SCALE, GgmlBlocks
from halfpint.tensors import FloatArray

_SMALLEST_SCALE = np.float32(2.0**-24)  # the smallest IEEE half above zero
_NEGLIGIBLE = np.float32(1e-30)  # weights below this are zero: no half can hold their scale, and 1 / x overflows
_LEAST_SPREAD = np.float32(2.0**-16)  # codes that vary less than this, relatively, do not determine a slope
_ONE = np.float32(1)
_ZERO = np.float32(0)

_IQ4 = np.array(IQ4_LEVELS, np.float32)
_IQ4_MIDDLES = (_IQ4[1:] + _IQ4[:-1]) / np.float32(2)


@dataclass(frozen=True, slots=True)
class FittedLevels:
    """The levels that codes can have: the integers from `low` to `high`, or the sixteen of iq4."""

    low: int
    high: int
    iq4: bool = False

    def nearest(self, values: FloatArray) -> FloatArray:
        """Round to the nearest level; integers tie to even, iq4 to the lower level."""
        if self.iq4:
            return _IQ4[np.searchsorted(_IQ4_MIDDLES, values, side="left")]
        return np.rint(np.clip(values, np.float32(self.low), np.float32(self.high)))


def written_levels(fmt: GgmlBlocks) -> FittedLevels:
    """Give the levels that an encoder uses: all of them, but for -128 in q8_0, which would bias the rounding."""
    if fmt.name.startswith("iq4"):
        return FittedLevels(IQ4_LEVELS[0], IQ4_LEVELS[-1], iq4=True)
    low = fmt.lowest_level if fmt.name != "q8_0" else -127
    return FittedLevels(low, fmt.lowest_level + 2**fmt.bits - 1)


def total(terms: FloatArray) -> FloatArray:
    """Sum over the first axis, strictly in order: NumPy's own sum may pair terms up."""
    accumulated = np.zeros(terms.shape[1:], np.float32)
    for term in terms:
        accumulated += term
    return accumulated


def ratio(numerator: FloatArray, denominator: FloatArray) -> FloatArray:
    """Divide, with 0 where the denominator is 0."""
    zero = denominator == 0
    return np.where(zero, _ZERO, numerator / np.where(zero, _ONE, denominator))


def inverse(values: FloatArray) -> FloatArray:
    """Give 1 / values, with 0 where a value is negligible: it then codes to 0."""
    negligible = np.abs(values) <= _NEGLIGIBLE
    return np.where(negligible, _ZERO, _ONE / np.where(negligible, _ONE, values))


def to_half(values: FloatArray) -> FloatArray:
    """Round to the nearest IEEE half, in float32; what is too large becomes the largest half."""
    return np.clip(values, -LARGEST_SCALE, LARGEST_SCALE).astype(np.float16).astype(np.float32)


def to_live_half(values: FloatArray) -> FloatArray:
    """Round as `to_half`, but let no value that is not zero become zero."""
    halves = to_half(values)
    return np.where((halves == 0) & (values != 0), np.copysign(_SMALLEST_SCALE, values), halves)


def peak(values: FloatArray) -> FloatArray:
    """Return, along the first axis, the first of the values of largest magnitude, with its sign."""
    index = np.abs(values).argmax(axis=0)
    first: FloatArray = np.take_along_axis(values, index[None], axis=0)[0]
    return first


class ScaleSums(NamedTuple):
    """Weighted sums over the positions of a group, for the error of codes under some scale."""

    error: FloatArray
    error_level: FloatArray
    level_level: FloatArray


def scale_sums(values: FloatArray, weights: FloatArray, scale: FloatArray, levels: FittedLevels) -> ScaleSums:
    """Code values with a scale, and sum up the error e = value - scale * level.

    Residuals, not values, are summed: the gain of a better scale would else drown in rounding at 6 bits and more.
    """
    level = levels.nearest(values * inverse(scale))
    error = values - scale * level
    return ScaleSums(
        total((weights * error) * error), total((weights * error) * level), total((weights * level) * level)
    )


class AffineSums(NamedTuple):
    """As `ScaleSums`, for codes under a scale and an offset."""

    error: FloatArray
    error_level: FloatArray
    error_one: FloatArray
    level_level: FloatArray
    level_one: FloatArray


def affine_sums(
    values: FloatArray, weights: FloatArray, scale: FloatArray, offset: FloatArray, levels: FittedLevels
) -> AffineSums:
    """Code values with a scale and an offset, and sum up the error e = value - (scale * level + offset)."""
    level = levels.nearest((values - offset) * inverse(scale))
    error = values - (scale * level + offset)
    weighted_error, weighted_level = weights * error, weights * level
    return AffineSums(
        total(weighted_error * error),
        total(weighted_error * level),
        total(weighted_error),
        total(weighted_level * level),
        total(weighted_level),
    )


class FittedScale(NamedTuple):
    """A scale before rounding, and half the second derivative of the error with respect to it."""

    scale: FloatArray
    curvature: FloatArray


def fit_scale(values: FloatArray, weights: FloatArray, levels: FittedLevels, targets: tuple[float, ...]) -> FittedScale:
    """Find the scale with the least weighted squared error, codes chosen freely.

    Each target is a start: the scale that maps the peak to that level, past the last level or short of it. Codes
    under the start are kept, the scale is the least-squares one for them, and the best start wins.
    """
    top = peak(values)
    best = total((weights * values) * values)
    scale = np.zeros_like(best)
    curvature = np.zeros_like(best)
    for target in targets:
        start = top * (_ONE / np.float32(target))
        sums = scale_sums(values, weights, start, levels)
        step = ratio(sums.error_level, sums.level_level)
        error = sums.error - step * sums.error_level
        better = (error < best) & (sums.level_level > 0)
        best = np.where(better, error, best)
        scale = np.where(better, start + step, scale)
        curvature = np.where(better, sums.level_level, curvature)
    return FittedScale(scale, curvature)


class FittedAffine(NamedTuple):
    """A scale and an offset before rounding, and what the error's second derivatives are made of."""

    scale: FloatArray
    offset: FloatArray
    level_level: FloatArray
    level_one: FloatArray


def fit_affine(
    values: FloatArray,
    weights: FloatArray,
    levels: FittedLevels,
    targets: tuple[float, ...],
    rounds: int,
    nonpositive: bool,
) -> FittedAffine:
    """Find the scale and offset with the least weighted squared error, codes chosen freely.

    Each target is a start: the number of steps, from the smallest value to the largest. From there `rounds` times
    codes are chosen, and then the least-squares scale and offset for them; the best of all pairs wins.

    `nonpositive` keeps the offset at or below zero, which is all that q2_k, q4_k and q5_k can store.
    """
    low = values.min(axis=0)
    if nonpositive:
        low = np.minimum(low, _ZERO)
    span = values.max(axis=0) - low
    weight_sum = total(weights)
    shifted = values - low  # small numbers: the sums lose nothing to a large offset
    ceiling = -low if nonpositive else np.full_like(low, np.inf)
    best = np.full_like(low, np.inf)
    found = FittedAffine(np.zeros_like(low), low, np.zeros_like(low), np.zeros_like(low))
    for target in targets:
        scale, offset = span * (_ONE / np.float32(target)), np.zeros_like(low)
        for _ in range(rounds):
            sums = affine_sums(shifted, weights, scale, offset, levels)
            scale, offset, error = _least_squares(sums, weight_sum, scale, offset, ceiling)
            better = error < best
            best = np.where(better, error, best)
            candidate = FittedAffine(scale, offset + low, sums.level_level, sums.level_one)
            found = FittedAffine(*(np.where(better, new, old) for new, old in zip(candidate, found, strict=True)))
    return found


def affine_step(sums: AffineSums, weight_sum: FloatArray) -> FloatArray:
    """Least-squares change of the scale, the offset free; 0 where the codes do not determine it."""
    product = weight_sum * sums.level_level
    determinant = product - sums.level_one * sums.level_one
    determined = determinant > product * _LEAST_SPREAD
    numerator = weight_sum * sums.error_level - sums.level_one * sums.error_one
    return ratio(numerator, np.where(determined, determinant, _ZERO))


def _least_squares(
    sums: AffineSums, weight_sum: FloatArray, scale: FloatArray, offset: FloatArray, ceiling: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Best scale and offset for fixed codes, and their error; an offset above the ceiling is put on it."""
    step = affine_step(sums, weight_sum)
    shift = ratio(sums.error_one - sums.level_one * step, weight_sum)
    error = (sums.error - step * sums.error_level) - shift * sums.error_one
    over = offset + shift > ceiling
    # On the ceiling the shift is given, and the scale is fitted to what it leaves.
    pinned_shift: FloatArray = np.where(over, ceiling - offset, _ZERO)
    rest: FloatArray = sums.error_level - pinned_shift * sums.level_one
    pinned_step = ratio(rest, sums.level_level)
    twice = pinned_shift + pinned_shift
    pinned_error = (
        (sums.error - twice * sums.error_one) + (pinned_shift * pinned_shift) * weight_sum
    ) - pinned_step * rest
    return (
        scale + np.where(over, pinned_step, step),
        np.where(over, ceiling, offset + shift),
        np.where(over, pinned_error, error),
    )
