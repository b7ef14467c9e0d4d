"""Error feedback: each column's rounding error is made up for by the columns after it.

The error of a layer's output is tr(E H E^T), H being the second moments of its input. With H^-1 = U^T U, U upper
triangular, rounding column after column and spreading each error over the columns to come, weighted by U, minimises
it greedily (GPTQ, arXiv 2210.17323; LDLQ, arXiv 2307.13304). Scales are fitted block by block to the weights as they
then stand, each column's error weighted by 1 / U_jj^2: that is what an error in it costs once the later columns
have answered.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from halfpint import kernels
from halfpint.formats import ggml
from halfpint.formats.affine import Affine
from halfpint.formats.ggml import GgmlBlocks
from halfpint.solvers.statistics import Solved, Statistics
from halfpint.tensors import FloatArray, Format, QuantizedTensor

# Share of the mean diagonal that is added to the diagonal: enough for any factorization, too little to matter.
_DAMPING = (0.01, 0.1, 1.0)


def supports(fmt: Format) -> bool:
    """Whether the solver can fill this format."""
    return isinstance(fmt, GgmlBlocks) or (isinstance(fmt, Affine) and fmt.symmetric)


def solve(weight: FloatArray, statistics: Statistics | None, fmt: Format) -> Solved:
    """Choose codes with error feedback; never worse, in the proxy tr(E H E^T), than the nearest ones.

    Parameters
    ----------
    weight : float32 [rows, columns]
    statistics : Statistics
    fmt : Format
        One that `supports` accepts.

    Returns
    -------
    Solved
    """
    assert statistics is not None
    assert supports(fmt)
    moments = statistics.total().second.astype(np.float64)
    moments /= max(float(np.trace(moments)) / len(moments), np.finfo(np.float64).tiny)
    spread = feedback_factor(moments)
    fed = _round_columns(weight, spread, fmt)
    nearest = kernels.encode(weight, fmt, np.diagonal(moments).astype(np.float32))
    return Solved(min((fed, nearest), key=lambda candidate: proxy_loss(weight, candidate, moments)))


def proxy_loss(weight: FloatArray, quantized: QuantizedTensor, moments: NDArray[np.float64]) -> float:
    """tr(E H E^T) for E = weight - decoded."""
    error = (weight - kernels.decode(quantized)).astype(np.float64)
    return float(np.einsum("rc,rc->", error @ moments, error))


def feedback_factor(moments: NDArray[np.float64]) -> FloatArray:
    """Upper triangular U with U^T U = (H + damping)^-1, float32 [columns, columns].

    Columns whose input is always zero get an input of their own, so that there is an inverse; their weights do not
    matter.
    """
    damped = moments.copy()
    diagonal = np.einsum("ii->i", damped)
    mean = float(diagonal.mean())
    diagonal[diagonal == 0] = mean or 1.0
    for share in _DAMPING:
        diagonal += share * mean
        try:
            return _factor(damped)
        except np.linalg.LinAlgError:
            continue
    return np.eye(len(moments), dtype=np.float32)


def _factor(damped: NDArray[np.float64]) -> FloatArray:
    # Turned around, the lower factor of H is the upper factor's inverse: U = (L_reversed^-1)^T reversed. No inverse
    # of H itself is ever formed.
    lower = np.linalg.cholesky(damped[::-1, ::-1])
    inverse = np.linalg.solve(lower, np.eye(len(damped)))
    upper: FloatArray = np.triu(inverse[::-1, ::-1]).astype(np.float32)
    return upper


def _round_columns(weight: FloatArray, spread: FloatArray, fmt: Format) -> QuantizedTensor:
    """Go through the columns block by block, rounding and feeding back."""
    columns = weight.shape[1]
    step = fmt.block_columns if isinstance(fmt, GgmlBlocks) else (getattr(fmt, "group_size", 0) or columns)
    cost = 1 / np.square(np.diagonal(spread))
    remaining = weight.copy()
    pieces: list[QuantizedTensor] = []
    for start in range(0, columns, step):
        end = min(start + step, columns)
        fitted = kernels.encode(np.ascontiguousarray(remaining[:, start:end]), fmt, cost[start:end])
        grid = _Grid.of(fitted)
        errors = np.empty((len(weight), end - start), dtype=np.float32)
        for column in range(start, end):
            values = grid.round(column - start, remaining[:, column])
            error = (remaining[:, column] - values) / spread[column, column]
            errors[:, column - start] = error
            # Only this block: the columns after it take all of the block's errors at once, below.
            remaining[:, column + 1 : end] -= error[:, None] * spread[column, column + 1 : end]
        remaining[:, end:] -= errors @ spread[start:end, end:]
        pieces.append(grid.quantized())
    return _joined(pieces, fmt, (len(weight), columns))


class _Grid:
    """The values that one block of columns can take, its scales fixed; filled column by column."""

    def __init__(self, fitted: QuantizedTensor, scales: FloatArray, offsets: FloatArray | None) -> None:
        self._fitted = fitted
        self._scales, self._offsets = scales, offsets
        fmt = fitted.format
        if isinstance(fmt, GgmlBlocks):
            levels = np.array(ggml.levels_of(fmt), dtype=np.float32)
            # -128 is never written in q8_0: see the format.
            self._levels = levels[1:] if fmt.name == "q8_0" else levels
            self._first = 1 if fmt.name == "q8_0" else 0
        else:
            assert isinstance(fmt, Affine)
            self._levels = np.arange(fmt.lowest, fmt.highest + 1, dtype=np.float32)
            self._first = 0
        self._middles = (self._levels[1:] + self._levels[:-1]) / 2
        self._indices = np.empty(fitted.shape, dtype=np.uint8)

    @classmethod
    def of(cls, fitted: QuantizedTensor) -> _Grid:
        """The grid whose scales a fit has chosen."""
        rows, columns = fitted.shape
        fmt = fitted.format
        if isinstance(fmt, GgmlBlocks):
            fields = ggml.unpack(fitted.parts["blocks"].reshape(rows, -1), fmt)
            scales, offsets = ggml.group_scales(fields)
            repeat = columns // scales.reshape(rows, -1).shape[1]
            spread = None if offsets is None else np.repeat(offsets.reshape(rows, -1), repeat, axis=1)
            return cls(fitted, np.repeat(scales.reshape(rows, -1), repeat, axis=1), spread)
        scales = fitted.parts["scales"].astype(np.float32)
        return cls(fitted, np.broadcast_to(scales, (rows, columns)), None)

    def round(self, column: int, values: FloatArray) -> FloatArray:
        """Take the nearest value for every row of a column, and remember which."""
        scale = self._scales[:, column]
        offset = np.float32(0) if self._offsets is None else self._offsets[:, column]
        live = scale != 0
        scaled = np.where(live, (values - offset) / np.where(live, scale, 1), 0)
        index = np.searchsorted(self._middles, scaled)
        self._indices[:, column] = index
        rounded: FloatArray = self._levels[index] * scale + offset
        return rounded

    def quantized(self) -> QuantizedTensor:
        """The block with the codes that were taken."""
        fmt = self._fitted.format
        if isinstance(fmt, GgmlBlocks):
            blocks = self._fitted.parts["blocks"]
            fields = ggml.unpack(blocks.reshape(len(blocks), -1), fmt)
            fields.codes[...] = self._indices + np.uint8(self._first)
            return QuantizedTensor(fmt, self._fitted.shape, {"blocks": ggml.pack(fields, fmt).reshape(blocks.shape)})
        codes = self._levels[self._indices].astype(np.int8)
        return QuantizedTensor(fmt, self._fitted.shape, {**self._fitted.parts, "codes": codes})


def _joined(pieces: list[QuantizedTensor], fmt: Format, shape: tuple[int, int]) -> QuantizedTensor:
    """Blocks of columns side by side."""
    names = pieces[0].parts
    parts = {name: np.ascontiguousarray(np.concatenate([p.parts[name] for p in pieces], axis=1)) for name in names}
    return QuantizedTensor(fmt, shape, parts)
