"""Error feedback over a whole weight: block after block, each block's error made up for by the columns after it."""

from __future__ import annotations

import numpy as np

from halfpint import kernels
from halfpint.kernels import group_codes
from halfpint.solvers import lattices, moves
from halfpint.tensors import FloatArray, Format, QuantizedTensor

# Columns at a time where one scale serves the whole row.
_SLICE = 128


def fit(weight: FloatArray, fmt: Format, importance: FloatArray, largest: float) -> QuantizedTensor:
    """Encode some columns of a weight whose largest magnitude is `largest`.

    The same as `kernels.encode`, except where a format has a scale for the whole tensor, which must then be the same
    for all of its columns.
    """
    if fmt.row_multiple == 0:
        assert isinstance(fmt, group_codes.GroupCodes)
        return group_codes.encode(np.ascontiguousarray(weight), False, largest, fmt, importance)
    return kernels.encode(np.ascontiguousarray(weight), fmt, importance)


def feed_back(weight: FloatArray, factor: FloatArray, fmt: Format) -> QuantizedTensor:
    """Choose scales and codes with error feedback (GPTQ, arXiv 2210.17323; LDLQ, arXiv 2307.13304).

    Parameters
    ----------
    weight : float32 [rows, columns]
    factor : float32 [columns, columns]
        Upper triangular U with U^T U the inverse of the damped second moments.
    fmt : Format
        One that has a lattice.

    Returns
    -------
    QuantizedTensor

    Raises
    ------
    ShapeError, NonFiniteError
        If what the feedback made of a weight is beyond what the format's scales reach.

    Notes
    -----
    Scales are fitted block by block to the weights as they then stand, each column's error weighted by 1 / U_jj^2: that
    is what an error in it costs once the later columns have answered. Where one scale serves the whole row it must be
    fitted before, and as no block then stands in the way of another, columns are visited in the order of their
    inputs' size: the large ones while there are still others to answer for them.
    """
    columns = weight.shape[1]
    largest = float(np.abs(weight).max())
    cost = (1 / np.square(np.diagonal(factor))).astype(np.float32)
    fitted = fit(weight, fmt, cost, largest)
    whole = lattices.read(fitted)
    remaining = weight.copy()
    lattice = whole.lattice
    row_scale = lattice.block_columns >= columns and lattice.group_columns >= columns
    width = min(columns, _SLICE) if row_scale else lattice.block_columns
    # Scales that all rows or a whole row share are fitted once, before; others to what feedback made of their block.
    refit = not row_scale and (lattice.scale_dtype is not None or len(lattice.subscales) > 1)
    for start in range(0, columns, width):
        end = min(start + width, columns)
        if refit:
            piece = lattices.read(fit(remaining[:, start:end], fmt, cost[start:end], largest))
            whole.put(start, piece)
        indices, errors = moves.feed_back(
            remaining[:, start:end], factor[start:end, start:end], whole.columns(start, end)
        )
        whole.indices[:, start:end] = indices
        # Inside a block its columns have answered already: those after it take all of its errors at once.
        remaining[:, end:] -= errors @ factor[start:end, end:]
    return lattices.write(whole, fitted)
