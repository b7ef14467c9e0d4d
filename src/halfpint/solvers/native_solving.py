"""The two inner loops of the solvers on grids, in native code; `reference` has them in NumPy, with the same bits."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from halfpint.kernels import _native, solving
from halfpint.solvers.scalar_grid import Grid, Lattice
from halfpint.tensors import FloatArray


def described(lattice: Lattice) -> _native.Lattice:
    """Give a lattice as the kernels know it."""
    widths = lattice.group_columns, lattice.block_columns
    tables = lattice.levels, lattice.subscales, lattice.submins
    return solving.lattice(*tables, lattice.minimum, lattice.scale_dtype, widths)


def feed_back(weight: FloatArray, factor: FloatArray, grid: Grid) -> tuple[NDArray[np.uint8], FloatArray]:
    """Round columns with error feedback: indices and errors, as `reference.feed_back` explains them."""
    return solving.feed_back(described(grid.lattice), weight, factor, *grid.per_group())


def refine(grid: Grid, gradient: FloatArray, moments: FloatArray, rounds: int) -> tuple[Grid, FloatArray]:
    """Lower the loss by moves: a new grid and the change of its values, as `reference.refine` explains them."""
    new = grid.copy()
    arrays = new.indices, new.scale, new.minimum, new.subscale, new.submin
    return new, solving.refine(described(grid.lattice), gradient, moments, rounds, arrays)
