"""Nearest codes, under scales searched for the smallest weighted squared error. Needs no text."""

from __future__ import annotations

from halfpint import kernels
from halfpint.tensors import Array, FloatArray, Format, QuantizedTensor


def solve(weight: FloatArray, statistics: Array | None, fmt: Format) -> QuantizedTensor:
    """Encode a weight, each column's error weighted by how large that column's input is.

    Parameters
    ----------
    weight : float32 [rows, columns]
    statistics : float32 [columns] or None
        Mean square of each input, or None: every column counts the same.
    fmt : Format

    Returns
    -------
    QuantizedTensor
    """
    return kernels.encode(weight, fmt, statistics)
