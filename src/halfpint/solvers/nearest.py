"""Nearest codes, under scales searched for the smallest weighted squared error. Needs no text."""

from __future__ import annotations

import numpy as np

from halfpint import kernels
from halfpint.solvers.statistics import Solved, Statistics
from halfpint.tensors import FloatArray, Format


def solve(weight: FloatArray, statistics: Statistics | None, fmt: Format) -> Solved:
    """Encode a weight, each column's error weighted by how large that column's input is.

    Parameters
    ----------
    weight : float32 [rows, columns]
    statistics : Statistics or None
        None: every column counts the same.
    fmt : Format

    Returns
    -------
    Solved
    """
    importance = None if statistics is None else np.diagonal(statistics.second()).copy()
    return Solved(kernels.encode(weight, fmt, importance))
