"""The solvers' inner loops in NumPy, column by column: slow, obvious, and what the native kernels are tested against.

Rows are independent, and every sum runs over columns in ascending order with one rounding per operation, so that a
native kernel with a row in each vector lane gives the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from halfpint.solvers.scalar_grid import Grid, spread
from halfpint.tensors import FloatArray

SUBSCALE_STEPS = (0, -1, 1, -2, 2)
"""Steps along the table of sub-scales that a group may take at once; 0 is to stay."""


def feed_back(weight: FloatArray, factor: FloatArray, grid: Grid) -> tuple[NDArray[np.uint8], FloatArray]:
    """Round columns one after the other, each error made up for by the columns after it.

    Parameters
    ----------
    weight : float32 [rows, columns]
    factor : float32 [columns, columns]
        Upper triangular, positive diagonal: the part of the feedback factor at these columns.
    grid : Grid
        Of the same shape; its indices are not looked at.

    Returns
    -------
    indices : uint8 [rows, columns]
    errors : float32 [rows, columns]
        Each error divided by the factor's diagonal: what the columns after these have to make up for, times their
        rows of the factor.
    """
    columns = weight.shape[1]
    remaining = weight.copy()
    indices = np.empty(weight.shape, np.uint8)
    errors = np.empty_like(weight)
    scale, offset = (spread(each, grid.lattice.group_columns, columns) for each in grid.per_group())
    inverse = _inverse(scale)
    for column in range(columns):
        scaled = (remaining[:, column] - offset[:, column]) * inverse[:, column]
        index = grid.lattice.nearest(scaled)
        rounded = grid.lattice.levels[index] * scale[:, column] + offset[:, column]
        error = (remaining[:, column] - rounded) * (np.float32(1) / factor[column, column])
        remaining[:, column + 1 :] -= error[:, None] * factor[column, column + 1 :]
        indices[:, column], errors[:, column] = index, error
    return indices, errors


def refine(grid: Grid, gradient: FloatArray, moments: FloatArray, rounds: int) -> tuple[Grid, FloatArray]:
    """Lower the loss by moves of sub-scales, scales and indices, in turns; no move that does not lower it is made.

    Parameters
    ----------
    grid : Grid
        Whole blocks of columns; or a part of one, of a lattice whose scales and tables do not allow any choice.
    gradient : float32 [rows, columns]
        (W - Q) H at these columns: minus half the gradient of tr((W - Q) H (W - Q)^T).
    moments : float32 [columns, columns]
        H at these columns.
    rounds : int

    Returns
    -------
    grid : Grid
        A new one.
    change : float32 [rows, columns]
        What was added to the values.
    """
    patch = _Patch(grid, gradient.copy(), moments)
    before = patch.values.copy()
    for _ in range(rounds):
        patch.move_groups()
        patch.move_blocks()
        patch.descend()
    return patch.grid, patch.values - before


def _inverse(scale: FloatArray) -> FloatArray:
    """1 / scale, and 0 for a scale of 0 or next to it: all levels are then the same value."""
    useful = np.abs(scale) > np.float32(1e-30)
    inverse: FloatArray = np.where(useful, np.float32(1) / np.where(useful, scale, np.float32(1)), np.float32(0))
    return inverse


def _ordered_sum(values: FloatArray) -> FloatArray:
    """Sum over columns, first to last: [rows, columns] -> [rows]."""
    total = np.zeros(len(values), np.float32)
    for column in range(values.shape[1]):
        total += values[:, column]
    return total


def _product(values: FloatArray, moments: FloatArray) -> FloatArray:
    """Values @ moments, summed first to last."""
    total = np.zeros((len(values), moments.shape[1]), np.float32)
    for column in range(values.shape[1]):
        total += values[:, column, None] * moments[column]
    return total


def _ratio(numerator: FloatArray, denominator: FloatArray) -> FloatArray:
    good = denominator > 0
    quotient: FloatArray = np.where(good, numerator / np.where(good, denominator, np.float32(1)), np.float32(0))
    return quotient


@dataclass(slots=True)
class _Patch:
    """Columns being refined: the grid, the gradient at its columns, their second moments."""

    grid: Grid
    gradient: FloatArray
    moments: FloatArray
    values: FloatArray

    def __init__(self, grid: Grid, gradient: FloatArray, moments: FloatArray) -> None:
        self.grid, self.gradient, self.moments = grid.copy(), gradient, moments
        self.values = grid.values()

    def _take(self, start: int, end: int) -> None:
        """Let the columns [start, end) follow what has become of their scales."""
        new = self.grid.values()[:, start:end]
        for column in range(start, end):
            step = new[:, column - start] - self.values[:, column]
            self.gradient -= step[:, None] * self.moments[column]
            self.values[:, column] = new[:, column - start]

    def descend(self) -> None:
        """Let each index take the best value, all others fixed, one column after the other."""
        lattice = self.grid.lattice
        columns = self.values.shape[1]
        scale, offset = (spread(each, lattice.group_columns, columns) for each in self.grid.per_group())
        inverse = _inverse(scale)
        for column in range(columns):
            wished = self.values[:, column] + self.gradient[:, column] * (np.float32(1) / self.moments[column, column])
            index = lattice.nearest((wished - offset[:, column]) * inverse[:, column])
            new = lattice.levels[index] * scale[:, column] + offset[:, column]
            step = new - self.values[:, column]
            self.gradient -= step[:, None] * self.moments[column]
            self.values[:, column] = new
            self.grid.indices[:, column] = index

    def move_groups(self) -> None:
        """Let each group take the best sub-scale near its own, with the best sub-minimum for it; codes stay."""
        lattice = self.grid.lattice
        if len(lattice.subscales) == 1 and len(lattice.submins) == 1:
            return
        for group in range(self.grid.subscale.shape[1]):
            start = group * lattice.group_columns
            end = min(start + lattice.group_columns, self.values.shape[1])
            self._move_group(group, start, end)
            self._take(start, end)

    def _move_group(self, group: int, start: int, end: int) -> None:
        grid, lattice = self.grid, self.grid.lattice
        block = start // lattice.block_columns
        moments = self.moments[start:end, start:end]
        gradient = self.gradient[:, start:end]
        level = lattice.levels[grid.indices[:, start:end]]
        spread_level = _product(level, moments)
        level_level, level_one = _ordered_sum(level * spread_level), _ordered_sum(spread_level)
        one_one = _ordered_sum(_product(np.ones((1, end - start), np.float32), moments))[0]
        gradient_level, gradient_one = _ordered_sum(gradient * level), _ordered_sum(gradient)
        scale, minimum = grid.scale[:, block], grid.minimum[:, block]
        subscale, submin = grid.subscale[:, group].copy(), grid.submin[:, group].copy()
        best = np.zeros(len(level), np.float32)
        for step in SUBSCALE_STEPS:
            tried = np.clip(subscale + step, 0, len(lattice.subscales) - 1)
            factor = scale * (lattice.subscales[tried] - lattice.subscales[subscale])
            moved = submin
            if len(lattice.submins) > 1:
                wished = (gradient_one - factor * level_one) * (np.float32(1) / one_one)
                # Tables of sub-minima go down by one from entry to entry.
                steps = np.rint(np.clip(-wished * _inverse(minimum), -512, 512)).astype(np.int16)
                moved = np.clip(submin + steps, 0, len(lattice.submins) - 1).astype(np.int16)
            shift = minimum * (lattice.submins[moved] - lattice.submins[submin])
            loss = (
                factor * factor * level_level
                + np.float32(2) * factor * shift * level_one
                + shift * shift * one_one
                - np.float32(2) * (factor * gradient_level + shift * gradient_one)
            )
            better = loss < best
            best = np.where(better, loss, best)
            grid.subscale[:, group] = np.where(better, tried, grid.subscale[:, group])
            grid.submin[:, group] = np.where(better, moved, grid.submin[:, group])

    def move_blocks(self) -> None:
        """Let each block take the least-squares scale and minimum, rounded as they are stored; codes stay."""
        if self.grid.lattice.scale_dtype is None:
            return
        width = self.grid.lattice.block_columns
        for block in range(self.grid.scale.shape[1]):
            start, end = block * width, min((block + 1) * width, self.values.shape[1])
            self._move_block(block, start, end)
            self._take(start, end)

    def _move_block(self, block: int, start: int, end: int) -> None:
        grid, lattice = self.grid, self.grid.lattice
        moments, gradient = self.moments[start:end, start:end], self.gradient[:, start:end]
        per_scale, per_minimum = grid.directions(start, end)
        spread_scale, spread_minimum = _product(per_scale, moments), _product(per_minimum, moments)
        ss, sm = _ordered_sum(per_scale * spread_scale), _ordered_sum(per_minimum * spread_scale)
        mm = _ordered_sum(per_minimum * spread_minimum)
        gs, gm = _ordered_sum(gradient * per_scale), _ordered_sum(gradient * per_minimum)
        determinant = ss * mm - sm * sm
        safe = np.where(determinant > ss * mm * np.float32(1e-4), determinant, np.float32(0))
        scale, minimum = grid.scale[:, block].copy(), grid.minimum[:, block].copy()
        zero = np.zeros_like(scale)
        best = np.zeros_like(scale)
        for scale_step, minimum_step in (
            (_ratio(mm * gs - sm * gm, safe), _ratio(ss * gm - sm * gs, safe)),
            (_ratio(gs, ss), zero),
            (zero, _ratio(gm, mm)),
        ):
            new_scale = np.where(scale_step == 0, scale, lattice.storable(scale + scale_step))
            new_minimum = np.where(minimum_step == 0, minimum, lattice.storable(minimum + minimum_step))
            s, m = new_scale - scale, new_minimum - minimum
            loss = s * s * ss + np.float32(2) * s * m * sm + m * m * mm - np.float32(2) * (s * gs + m * gm)
            better = loss < best
            best = np.where(better, loss, best)
            grid.scale[:, block] = np.where(better, new_scale, grid.scale[:, block])
            grid.minimum[:, block] = np.where(better, new_minimum, grid.minimum[:, block])
        if lattice.minimum == "tied":
            grid.minimum[:, block] = grid.scale[:, block]
