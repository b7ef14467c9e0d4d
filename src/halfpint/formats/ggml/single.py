"""Blocks with one scale: q8_0, q4_0, q5_0, iq4_nl; and with a minimum: q4_1, q5_1.

A search proposes scales, each is rounded to the half that is stored, and the one whose decoded block has the least
weighted squared error wins. Zero and plain rounding from peak to peak are among the proposals.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from halfpint.formats.ggml.fitting import (
    FittedLevels,
    affine_step,
    affine_sums,
    fit_affine,
    fit_scale,
    inverse,
    peak,
    ratio,
    scale_sums,
    to_half,
    to_live_half,
    total,
)
from halfpint.tensors import FloatArray

SCALE_ROUNDS = 2
AFFINE_ROUNDS = 3
AFFINE_FIT_ROUNDS = 2


class SingleBlocks(NamedTuple):
    """Scales, float32 [blocks] with the values of halves, and levels, float32 [positions, blocks]."""

    scale: FloatArray
    minimum: FloatArray | None
    level: FloatArray


def encode_scaled(
    values: FloatArray, weights: FloatArray, levels: FittedLevels, targets: tuple[float, ...]
) -> SingleBlocks:
    """Choose the scale and the codes of blocks without a minimum.

    Parameters
    ----------
    values, weights : float32 [positions, blocks]
        Weights are positive.
    levels : FittedLevels
        What codes can mean.
    targets : tuple of float
        Starts of the search, as `fit_scale` describes.
    """
    best = total((weights * values) * values)
    scale = np.zeros_like(best)
    extreme = np.float32(levels.low if abs(levels.low) >= levels.high else levels.high)
    plain = to_live_half(peak(values) / extreme)
    candidate = to_live_half(fit_scale(values, weights, levels, targets).scale)
    for attempt in range(SCALE_ROUNDS + 1):
        if attempt == SCALE_ROUNDS:
            candidate = plain
        sums = scale_sums(values, weights, candidate, levels)
        better = sums.error < best
        best = np.where(better, sums.error, best)
        scale = np.where(better, candidate, scale)
        candidate = to_half(candidate + ratio(sums.error_level, sums.level_level))
    return SingleBlocks(scale, None, levels.nearest(values * inverse(scale)))


def encode_affine(
    values: FloatArray, weights: FloatArray, levels: FittedLevels, targets: tuple[float, ...]
) -> SingleBlocks:
    """Choose the scale, the minimum and the codes of blocks; parameters as in `encode_scaled`."""
    weight_sum = total(weights)
    best = total((weights * values) * values)
    scale = np.zeros_like(best)
    minimum = np.zeros_like(best)
    fitted = fit_affine(values, weights, levels, targets, AFFINE_FIT_ROUNDS, nonpositive=False)
    low = values.min(axis=0)
    slope, offset = to_live_half(fitted.scale), to_half(fitted.offset)
    for attempt in range(AFFINE_ROUNDS + 1):
        if attempt == AFFINE_ROUNDS:
            slope, offset = to_live_half((values.max(axis=0) - low) / np.float32(levels.high)), to_half(low)
        sums = affine_sums(values, weights, slope, offset, levels)
        better = sums.error < best
        best = np.where(better, sums.error, best)
        scale = np.where(better, slope, scale)
        minimum = np.where(better, offset, minimum)
        # The offset is fitted after the scale's rounding, and so makes up for it.
        rounded = to_half(slope + affine_step(sums, weight_sum))
        offset = to_half(offset + ratio(sums.error_one - sums.level_one * (rounded - slope), weight_sum))
        slope = rounded
    return SingleBlocks(scale, minimum, levels.nearest((values - minimum) * inverse(scale)))
