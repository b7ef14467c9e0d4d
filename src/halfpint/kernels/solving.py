"""The solvers' inner loops in native code: error feedback and refinement of some columns of a weight.

The bits are those of `halfpint.solvers.reference`: the same float32 operations in the same order, one row to a vector
lane, on every instruction set and with any number of threads. What the words mean is told by
`halfpint.solvers.scalar_grid`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from halfpint.formats import search
from halfpint.kernels import _native
from halfpint.tensors import FloatArray

# Numbers of MinimumKind and ScaleHolder in native/isa/solve.hpp.
_MINIMA: Mapping[str, int] = MappingProxyType({"none": 0, "own": 1, "tied": 2})
_HOLDERS: Mapping[np.dtype[Any], int] = MappingProxyType(
    {np.dtype(np.float16): 1, np.dtype(ml_dtypes.bfloat16): 2, np.dtype(np.float32): 3}
)


def lattice(
    levels: FloatArray,
    subscales: FloatArray,
    submins: FloatArray,
    minimum: Literal["none", "own", "tied"],
    scale_dtype: np.dtype[Any] | None,
    widths: tuple[int, int],
) -> _native.Lattice:
    """Describe a lattice to the kernels.

    Parameters
    ----------
    levels, subscales, submins : float32 [n]
        Tables; levels ascend and are at most 256.
    minimum : str
        Where offsets come from.
    scale_dtype : numpy dtype or None
        What holds scales and minima: float16, bfloat16 or float32; None where they must stay.
    widths : tuple of int
        Columns of a group, and of a block, which is whole groups.
    """
    holder = (0, 0.0, 0.0)
    if scale_dtype is not None:
        smallest, largest = search.scale_limits(scale_dtype)
        holder = (_HOLDERS[scale_dtype], float(smallest), float(largest))
    return _native.Lattice(levels, subscales, submins, _MINIMA[minimum], holder, widths)


def feed_back(
    described: _native.Lattice, weight: FloatArray, factor: FloatArray, scale: FloatArray, offset: FloatArray
) -> tuple[NDArray[np.uint8], FloatArray]:
    """Round columns one after the other, as `halfpint.solvers.reference.feed_back` does.

    Parameters
    ----------
    described : Lattice
    weight : float32 [rows, columns]
    factor : float32 [columns, columns]
        Upper triangular.
    scale, offset : float32 [rows, groups]
        What levels are multiplied by, and what is added.

    Returns
    -------
    indices : uint8 [rows, columns]
    errors : float32 [rows, columns]
    """
    indices, errors = np.empty(weight.shape, np.uint8), np.empty(weight.shape, np.float32)
    products = np.ascontiguousarray(weight), np.ascontiguousarray(factor)
    _native.feed_back(described, *products, np.ascontiguousarray(scale), np.ascontiguousarray(offset), indices, errors)
    return indices, errors


def refine(
    described: _native.Lattice,
    gradient: FloatArray,
    moments: FloatArray,
    rounds: int,
    arrays: tuple[NDArray[np.uint8], FloatArray, FloatArray, NDArray[np.int16], NDArray[np.int16]],
) -> FloatArray:
    """Lower the loss by moves, as `halfpint.solvers.reference.refine` does.

    Parameters
    ----------
    described : Lattice
    gradient : float32 [rows, columns]
    moments : float32 [columns, columns]
    rounds : int
    arrays : tuple
        Changed in place, all contiguous: indices uint8 [rows, columns], scale and minimum float32 [rows, blocks],
        subscale and submin int16 [rows, groups].

    Returns
    -------
    float32 [rows, columns]
        What was added to the values.
    """
    indices, scale, minimum, subscale, submin = arrays
    change = np.empty(gradient.shape, np.float32)
    products = np.ascontiguousarray(gradient), np.ascontiguousarray(moments)
    _native.refine(described, *products, rounds, indices, (scale, minimum), (subscale, submin), change)
    return change
