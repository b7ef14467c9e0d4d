"""Blocks of groups with integer sub-scales: q3_k, q6_k, iq4_xs; and with sub-minima: q2_k, q4_k, q5_k.

First each group is fitted alone. Then the block's scale is chosen so that its multiples come near the groups'
scales, each deviation weighed by what it costs. Then, in rounds, every group tries the neighbours of its integers and
codes itself anew, and the block's scales are refitted to all of it in closed form. The round whose decoded block has
the least weighted squared error wins; zero and plain rounding are among the candidates.

Arrays are [positions, groups, blocks], or [groups, blocks], or [blocks].
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from halfpint.formats.ggml.fitting import (
    AffineSums,
    FittedLevels,
    ScaleSums,
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

ROUNDS = 2
AFFINE_FIT_ROUNDS = 3
NEIGHBOURS = (0, -1, 1)
# Scale and minimum grow together when a group's range widens downwards, so that diagonal is tried and not the other.
AFFINE_NEIGHBOURS = ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1), (-1, -1), (1, 1))
_LEAST_SPREAD = np.float32(2.0**-16)


class NestedBlocks(NamedTuple):
    """Scales, float32 [blocks] with the values of halves; integers, float32 [groups, blocks]; levels."""

    scale: FloatArray
    minimum: FloatArray | None
    subscale: FloatArray
    submin: FloatArray | None
    level: FloatArray


class Search(NamedTuple):
    """Starts of the two searches: of a group's scale, and of the block's scale for the groups' scales."""

    targets: tuple[float, ...]
    block_targets: tuple[float, ...]


def encode_scaled(
    values: FloatArray, weights: FloatArray, levels: FittedLevels, integers: FittedLevels, search: Search
) -> NestedBlocks:
    """Choose scales and codes of blocks without minima.

    Parameters
    ----------
    values, weights : float32 [positions, groups, blocks]
        Weights are positive.
    levels, integers : FittedLevels
        What codes and sub-scales can be.
    search : Search
        Starts.
    """
    best = total(total((weights * values) * values))
    found_scale = np.zeros_like(best)
    found_integer = np.zeros(values.shape[1:], np.float32)
    fitted = fit_scale(values, weights, levels, search.targets)
    scale = _block_scale(fitted.scale, fitted.curvature, integers, search.block_targets)
    integer = integers.nearest(fitted.scale * inverse(scale))
    plain = peak(values) / np.float32(levels.low)
    for attempt in range(ROUNDS + 1):
        neighbours: tuple[int, ...] = NEIGHBOURS
        if attempt == ROUNDS:
            scale = to_live_half(peak(plain) / np.float32(integers.low))
            integer = integers.nearest(plain * inverse(scale))
            neighbours = (0,)
        sums, integer = _best_integers(values, weights, scale, (integer, neighbours), levels, integers)
        error = total(sums.error)
        better = error < best
        best = np.where(better, error, best)
        found_scale = np.where(better, scale, found_scale)
        found_integer = np.where(better, integer, found_integer)
        curvature = total((integer * integer) * sums.level_level)
        scale = to_half(scale + ratio(total(integer * sums.error_level), curvature))
    level = levels.nearest(values * inverse(found_scale * found_integer))
    return NestedBlocks(found_scale, None, found_integer, None, level)


def encode_affine(
    values: FloatArray, weights: FloatArray, levels: FittedLevels, integers: FittedLevels, search: Search
) -> NestedBlocks:
    """Choose scales, minima and codes; parameters as in `encode_scaled`.

    Offsets can only be negative here, so a block whose weights are all positive is coded with every sign turned,
    and both its scales are stored negative.
    """
    sign = np.where(values.min(axis=(0, 1)) > 0, np.float32(-1), np.float32(1))
    values = values * sign
    weight_sum = total(weights)
    best = total(total((weights * values) * values))
    found = _Choice(np.zeros_like(best), np.zeros_like(best), np.zeros_like(weight_sum), np.zeros_like(weight_sum))
    choice = _first_choice(values, weights, levels, integers, search)
    for attempt in range(ROUNDS + 1):
        neighbours: tuple[tuple[int, int], ...] = AFFINE_NEIGHBOURS
        if attempt == ROUNDS:
            choice = _plain_choice(values * sign, levels, integers)
            choice = choice._replace(scale=choice.scale * sign, minimum=choice.minimum * sign)
            neighbours = ((0, 0),)
        sums, choice = _best_pairs(values, weights, (choice, neighbours), levels, integers)
        error = total(sums.error)
        better = error < best
        best = np.where(better, error, best)
        found = _Choice(*(np.where(better, new, old) for new, old in zip(choice, found, strict=True)))
        choice = _refitted(sums, weight_sum, choice)
    scale, offset = _multiplied_out(found)
    level = levels.nearest((values - offset) * inverse(scale))
    return NestedBlocks(found.scale * sign, found.minimum * sign, found.subscale, found.submin, level)


class _Choice(NamedTuple):
    scale: FloatArray
    minimum: FloatArray
    subscale: FloatArray
    submin: FloatArray


def _multiplied_out(choice: _Choice) -> tuple[FloatArray, FloatArray]:
    """Scale and offset of every group, as decoding rounds them."""
    return choice.scale * choice.subscale, -(choice.minimum * choice.submin)


def _block_scale(
    wanted: FloatArray, curvature: FloatArray, integers: FittedLevels, targets: tuple[float, ...]
) -> FloatArray:
    """Find the block scale whose integer multiples come nearest to the wanted group scales.

    Each target is a start: the multiple that the largest wanted scale gets. [groups, blocks] to [blocks].
    """
    top = peak(wanted)
    best = np.full_like(top, np.inf)
    found = np.zeros_like(top)
    for target in targets:
        scale = to_live_half(top * (np.float32(1) / np.float32(target)))
        miss = wanted - scale * integers.nearest(wanted * inverse(scale))
        error = total((curvature * miss) * miss)
        better = error < best
        best = np.where(better, error, best)
        found = np.where(better, scale, found)
    return found


def _best_integers(
    values: FloatArray,
    weights: FloatArray,
    scale: FloatArray,
    around: tuple[FloatArray, tuple[int, ...]],
    levels: FittedLevels,
    integers: FittedLevels,
) -> tuple[ScaleSums, FloatArray]:
    """Let each group take the best sub-scale among neighbours, all its codes chosen anew for each."""
    centre, neighbours = around
    best: tuple[FloatArray, ...] = (np.full_like(centre, np.inf),) * 4
    for neighbour in neighbours:
        integer = np.clip(centre + np.float32(neighbour), np.float32(integers.low), np.float32(integers.high))
        sums = scale_sums(values, weights, scale * integer, levels)
        better = sums.error < best[0]
        best = tuple(np.where(better, new, old) for new, old in zip((*sums, integer), best, strict=True))
    return ScaleSums(*best[:3]), best[3]


def _first_choice(
    values: FloatArray, weights: FloatArray, levels: FittedLevels, integers: FittedLevels, search: Search
) -> _Choice:
    """Fit groups alone, then the block's scale to their scales, then its minimum to what offsets that leaves."""
    fitted = fit_affine(values, weights, levels, search.targets, AFFINE_FIT_ROUNDS, nonpositive=True)
    weight_sum = total(weights)
    mean_level = ratio(fitted.level_one, weight_sum)
    # What a wrong scale costs when the offset may make up for it.
    curvature = np.maximum(fitted.level_level - fitted.level_one * mean_level, np.float32(0))
    scale = _block_scale(fitted.scale, curvature, integers, search.block_targets)
    subscale = integers.nearest(fitted.scale * inverse(scale))
    moved = fitted.offset - mean_level * (scale * subscale - fitted.scale)
    depth = np.maximum(-moved, np.float32(0))
    minimum = _block_scale(depth, weight_sum, integers, search.block_targets)
    return _Choice(scale, minimum, subscale, integers.nearest(depth * inverse(minimum)))


def _plain_choice(values: FloatArray, levels: FittedLevels, integers: FittedLevels) -> _Choice:
    """Scales from the range of each group, rounded."""
    depth = np.maximum(-values.min(axis=0), np.float32(0))
    wanted = (values.max(axis=0) + depth) / np.float32(levels.high)
    scale = to_live_half(wanted.max(axis=0) / np.float32(integers.high))
    minimum = to_live_half(depth.max(axis=0) / np.float32(integers.high))
    subscale = integers.nearest(wanted * inverse(scale))
    return _Choice(scale, minimum, subscale, integers.nearest(depth * inverse(minimum)))


def _best_pairs(
    values: FloatArray,
    weights: FloatArray,
    around: tuple[_Choice, tuple[tuple[int, int], ...]],
    levels: FittedLevels,
    integers: FittedLevels,
) -> tuple[AffineSums, _Choice]:
    """Let each group take the best sub-scale and sub-minimum among neighbours, all its codes chosen anew."""
    centre, neighbours = around
    low, high = np.float32(integers.low), np.float32(integers.high)
    best: tuple[FloatArray, ...] = (np.full_like(centre.subscale, np.inf),) * 7
    for scale_neighbour, min_neighbour in neighbours:
        subscale = np.clip(centre.subscale + np.float32(scale_neighbour), low, high)
        submin = np.clip(centre.submin + np.float32(min_neighbour), low, high)
        scale, offset = _multiplied_out(_Choice(centre.scale, centre.minimum, subscale, submin))
        sums = affine_sums(values, weights, scale, offset, levels)
        better = sums.error < best[0]
        best = tuple(np.where(better, new, old) for new, old in zip((*sums, subscale, submin), best, strict=True))
    return AffineSums(*best[:5]), _Choice(centre.scale, centre.minimum, best[5], best[6])


def _refitted(sums: AffineSums, weight_sum: FloatArray, choice: _Choice) -> _Choice:
    """Least-squares scale and minimum of the block, all integers and codes fixed."""
    subscale, submin = choice.subscale, choice.submin
    scale_scale = total((subscale * subscale) * sums.level_level)
    scale_min = total((subscale * submin) * sums.level_one)
    min_min = total((submin * submin) * weight_sum)
    error_scale = total(subscale * sums.error_level)
    error_min = total(submin * sums.error_one)
    product = scale_scale * min_min
    determinant = product - scale_min * scale_min
    determined = determinant > product * _LEAST_SPREAD
    safe = np.where(determined, determinant, np.float32(0))
    joint_step = ratio(min_min * error_scale - scale_min * error_min, safe)
    step = np.where(determined, joint_step, ratio(error_scale, scale_scale))
    min_step = ratio(scale_min * error_scale - scale_scale * error_min, safe)
    return choice._replace(scale=to_half(choice.scale + step), minimum=to_half(choice.minimum + min_step))
