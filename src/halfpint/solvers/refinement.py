"""Sweeps over a coded weight that only ever lower the error of the layer's output.

Error feedback decides each code once, before those of the columns after it are known. Afterwards they are: each index,
sub-scale, sub-minimum, scale and minimum can be asked whether another value, all others fixed, gives a smaller
tr(E H E^T), E being what is left of the weight. For a scale that is least squares in closed form, for an index the
level nearest to a number; both need only the gradient E H, which is kept up to date.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from halfpint.kernels.blas import subtract_outer
from halfpint.solvers import moves
from halfpint.solvers.lattice import Grid
from halfpint.tensors import FloatArray

SWEEPS = 2
"""Passes over all columns; what a third one gains is within 1 % of the error."""

# Turns of scales and codes on a patch of columns before the next; the matrix product that follows costs far more.
_ROUNDS = 3
# Columns at a time, in whole blocks.
_PATCH = 256


def refine(weight: FloatArray, grid: Grid, moments: FloatArray, sweeps: int = SWEEPS) -> tuple[Grid, FloatArray]:
    """Improve a grid by sweeps of moves.

    Parameters
    ----------
    weight : float32 [rows, columns]
        What the grid stands for.
    grid : Grid
        Not changed.
    moments : float32 [columns, columns]
        Positive definite.
    sweeps : int

    Returns
    -------
    grid : Grid
        Of a loss not above that of the one given, up to rounding.
    losses : float32 [sweeps + 1]
        tr(E H E^T) before the first sweep and after each, as the running gradient gives it.
    """
    grid = grid.copy()
    columns = weight.shape[1]
    lattice = grid.lattice
    error = weight - grid.values()
    # A column to a row, so that it is added to in place.
    gradient = np.ascontiguousarray(np.matmul(error, moments, dtype=np.float32).T)
    losses = [float(np.vdot(gradient, error.T))]
    one_block = lattice.block_columns >= columns > _PATCH
    width = _PATCH if one_block else max(1, _PATCH // lattice.block_columns) * lattice.block_columns
    for _ in range(sweeps):
        if one_block:
            grid = _refit_rows(grid, gradient, moments)
        for start in range(0, columns, width):
            end = min(start + width, columns)
            here = grid.columns(start, end)
            piece, change = moves.refine(here, gradient[start:end].T, moments[start:end, start:end], _ROUNDS)
            if one_block:
                grid.indices[:, start:end] = piece.indices
            else:
                grid.put(start, piece)
            subtract_outer(gradient, moments[start:end], np.ascontiguousarray(change.T))
        losses.append(float(np.vdot(gradient, (weight - grid.values()).T)))
    return grid, np.array(losses, np.float32)


def _refit_rows(grid: Grid, gradient: FloatArray, moments: FloatArray) -> Grid:
    """Give each row the best scale for its codes, where one scale serves the whole row; the gradient follows."""
    if grid.lattice.scale_dtype is None:
        return grid
    per_scale, _ = grid.directions(0, len(gradient))
    image = per_scale @ moments
    curvature = np.einsum("rc,rc->r", per_scale, image)
    slope = np.einsum("rc,cr->r", per_scale, gradient)
    scale = grid.scale[:, 0]
    sloped = curvature > 0
    wished = scale + np.where(sloped, slope / np.where(sloped, curvature, np.float32(1)), np.float32(0))
    step = grid.lattice.storable(wished) - scale
    # Rounded to its dtype a step may overshoot: it is made only where the error falls all the same.
    step = np.where(step * (step * curvature - 2 * slope) < 0, step, np.float32(0))
    gradient -= (step[:, None] * image).T
    new = (scale + step)[:, None]
    minimum = new if grid.lattice.minimum == "tied" else grid.minimum
    return replace(grid, scale=new, minimum=minimum)
