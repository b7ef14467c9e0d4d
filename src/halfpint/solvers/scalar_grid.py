"""What the solvers know of a format: on which lattice of values the weights of a group can lie.

Every format here is one and the same thing, so that a solver is written once. The value of a weight is

    value = (scale * subscale) * level[index] + minimum * submin

where

- `level` is an ascending table of at most 256 numbers, the same for the whole tensor: integers, the levels of iq4 or
  nf4, the numbers of e2m1 or e4m3. A weight chooses an `index` into it, and nothing else is its own;
- `subscale` and `submin` belong to a *group* of consecutive columns of one row, and are chosen from tables too, also
  by an index: integers of 4, 6 or 8 bits in the k-quants, e4m3 numbers in nvfp4, powers of two in mxfp4. A format that
  has none has tables of one entry, 1;
- `scale` and `minimum` belong to a *block* of whole groups of one row, and are any number that their dtype holds.

What differs is which of the four there are. Symmetric integers have only a scale, a block being one group. A zero
point is a submin whose minimum is *tied* to the scale: (code - zero) * scale = scale * code + scale * (-zero). q4_1
has a minimum of its own and no submin. q4_k has everything. nvfp4's scale is given once for the tensor and stays
(`scale_dtype` None), as does that of fp8-block, which 128 rows share: rows must be free of each other here.

So a solver may do four things to lower an error, without knowing any format: move an index, move a subscale or submin
along its table, and move a scale or minimum to another number of its dtype. Rows never meet, and what a move costs
depends only on the gradient of the loss and the second moments of the columns it touches.

A new format needs one `Lattice`, and one function that gives the five arrays of a quantized tensor and one that puts
them back: `halfpint.solvers.scalar_grids`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from halfpint.formats import search
from halfpint.tensors import Array, FloatArray

Minimum = Literal["none", "own", "tied"]


def _one() -> FloatArray:
    """Make the table of a format without sub-scales or sub-minima."""
    return np.ones(1, dtype=np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Lattice:
    """Which values the weights of a format can have; the module's docstring explains the words.

    Attributes
    ----------
    levels : float32 [n]
        Ascending, at most 256.
    group_columns : int
        Columns of a group; the last of a row may be short.
    block_columns : int
        Columns of a block, a multiple of `group_columns`.
    scale_dtype : numpy dtype or None
        What holds scales and minima; None where the scale must stay as it was fitted.
    minimum : str
        `none`, of the format's `own`, or `tied` to the scale.
    subscales, submins : float32 [m]
        Tables, ascending in the order of their indices' steps; one entry where there is nothing to choose.
    """

    levels: FloatArray
    group_columns: int
    block_columns: int
    scale_dtype: np.dtype[Any] | None
    minimum: Minimum = "none"
    subscales: FloatArray = field(default_factory=_one)
    submins: FloatArray = field(default_factory=_one)

    def nearest(self, scaled: FloatArray) -> Array:
        """Give the index (uint8) of the level nearest to each number; integers take the even one of two."""
        if self.uniform:
            steps: Array = np.clip(scaled - self.levels[0], 0, np.float32(len(self.levels) - 1))
            return np.rint(steps).astype(np.uint8)
        return np.searchsorted(self.middles, scaled).astype(np.uint8)

    @property
    def uniform(self) -> bool:
        """Whether levels are one apart."""
        return bool((np.diff(self.levels) == 1).all())

    @property
    def middles(self) -> FloatArray:
        """float32 [n - 1]: where the nearest level changes."""
        return (self.levels[1:] + self.levels[:-1]) / np.float32(2)

    def storable(self, scale: FloatArray) -> FloatArray:
        """Round scales or minima to what their dtype holds, sign kept, never zero and never infinite."""
        assert self.scale_dtype is not None
        return search.storable(self.scale_dtype, np.float32(1))(scale)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """A weight on a lattice.

    Attributes
    ----------
    lattice : Lattice
    indices : uint8 [rows, columns]
    scale : float32 [rows, blocks]
    minimum : float32 [rows, blocks]
        Of lattices whose minimum is their own; else all zero or the scale, whichever gives the right value.
    subscale, submin : int16 [rows, groups]
        Indices into the tables.
    """

    lattice: Lattice
    indices: NDArray[np.uint8]
    scale: FloatArray
    minimum: FloatArray
    subscale: NDArray[np.int16]
    submin: NDArray[np.int16]

    def per_group(self) -> tuple[FloatArray, FloatArray]:
        """Multiply out: (factor, offset) of every group, float32 [rows, groups]; value = factor * level + offset."""
        lattice = self.lattice
        groups = self.subscale.shape[1]
        repeat = lattice.block_columns // lattice.group_columns
        scale = np.repeat(self.scale, repeat, axis=1)[:, :groups]
        minimum = np.repeat(self.minimum, repeat, axis=1)[:, :groups]
        factor: FloatArray = scale * lattice.subscales[self.subscale]
        offset: FloatArray = minimum * lattice.submins[self.submin]
        return factor, offset

    def values(self) -> FloatArray:
        """float32 [rows, columns]: what the weight is; decoding may differ in the last bit."""
        factor, offset = (spread(each, self.lattice.group_columns, self.indices.shape[1]) for each in self.per_group())
        return self.lattice.levels[self.indices] * factor + offset

    def directions(self, start: int, end: int) -> tuple[FloatArray, FloatArray]:
        """How values in columns [start, end), whole groups, grow with their block's scale and with its own minimum.

        Returns
        -------
        per_scale, per_minimum : float32 [rows, end - start]
        """
        lattice = self.lattice
        groups = slice(start // lattice.group_columns, -(-end // lattice.group_columns))
        width = end - start
        subscale = spread(lattice.subscales[self.subscale[:, groups]], lattice.group_columns, width)
        submin = spread(lattice.submins[self.submin[:, groups]], lattice.group_columns, width)
        per_scale: FloatArray = subscale * lattice.levels[self.indices[:, start:end]]
        if lattice.minimum == "own":
            return per_scale, submin
        return (per_scale + submin if lattice.minimum == "tied" else per_scale), np.zeros_like(submin)

    def columns(self, start: int, end: int) -> Grid:
        """Cut columns [start, end) out, as views; `start` begins a block, or the block is the whole row.

        A part of a whole row keeps its scale: it is no longer free to choose one.
        """
        lattice = self.lattice
        if start % lattice.block_columns or ((end - start) % lattice.block_columns and end < self.indices.shape[1]):
            assert self.scale.shape[1] == 1
            width = end - start
            part = replace(lattice, group_columns=width, block_columns=width, scale_dtype=None)
            factor, offset = self.per_group()
            part = replace(part, subscales=_one(), submins=_one())
            zero = np.zeros_like(self.subscale)
            return Grid(part, self.indices[:, start:end], factor, offset, zero, zero)
        blocks = slice(start // lattice.block_columns, -(-end // lattice.block_columns))
        groups = slice(start // lattice.group_columns, -(-end // lattice.group_columns))
        return Grid(
            lattice,
            self.indices[:, start:end],
            self.scale[:, blocks],
            self.minimum[:, blocks],
            self.subscale[:, groups],
            self.submin[:, groups],
        )

    def put(self, start: int, piece: Grid) -> None:
        """Overwrite the columns from `start` on, which begins a block, by those of a piece on the same lattice."""
        lattice = self.lattice
        block, group = start // lattice.block_columns, start // lattice.group_columns
        self.indices[:, start : start + piece.indices.shape[1]] = piece.indices
        self.scale[:, block : block + piece.scale.shape[1]] = piece.scale
        self.minimum[:, block : block + piece.scale.shape[1]] = piece.minimum
        self.subscale[:, group : group + piece.subscale.shape[1]] = piece.subscale
        self.submin[:, group : group + piece.subscale.shape[1]] = piece.submin

    def copy(self) -> Grid:
        """With arrays of its own, contiguous."""
        scales = self.scale.copy(), self.minimum.copy()
        return Grid(self.lattice, self.indices.copy(), *scales, self.subscale.copy(), self.submin.copy())


def spread(per_group: FloatArray, group_columns: int, columns: int) -> FloatArray:
    """Repeat [rows, groups] over the columns of each group: [rows, columns]; the last group may be short."""
    return np.repeat(per_group, group_columns, axis=1)[:, :columns]
