"""Error feedback with everything around it: a corrected target, feedback, and sweeps that refine.

The error of a layer's output is tr(E H E^T), H being the second moments of its input and E what the codes miss of the
wished weight. Three candidates are made, each from the one before: nearest codes under scales that weight each column
by its H_jj; codes by error feedback (`rounding`); those after refinement (`refinement`). The one with the least error
is kept, so that a format, a text or a matrix on which a step fails costs nothing but its time.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from halfpint import kernels
from halfpint.errors import NonFiniteError, ShapeError
from halfpint.solvers import lattices, refinement, rounding, rows
from halfpint.solvers.factor import DAMPING, live
from halfpint.solvers.lattices import supports
from halfpint.solvers.statistics import Solved, Statistics
from halfpint.solvers.target import choose_correction, wished_weight
from halfpint.tensors import FloatArray, Format, QuantizedTensor

__all__ = ["proxy_loss", "solve", "solve_unrefined", "solve_weighted", "supports"]


def solve(weight: FloatArray, statistics: Statistics | None, fmt: Format) -> Solved:
    """Choose codes with error feedback and refinement; never worse, in the proxy tr(E H E^T), than weighted nearest.

    Parameters
    ----------
    weight : float32 [rows, columns]
    statistics : Statistics
        With shifts, if the wished output is not the weight's own.
    fmt : Format
        One that `supports` accepts.

    Returns
    -------
    Solved
        Its losses are `nearest`, `weighted`, `feedback` and `refined`, all measured against the same target: the weight
        with its correction, as a share of tr(W H W^T) of the weight as it is. `note` says when no second moments could
        be factored, and the weighted nearest codes were taken.
    """
    return _solve(weight, statistics, fmt, refinement.SWEEPS)


def solve_unrefined(weight: FloatArray, statistics: Statistics | None, fmt: Format) -> Solved:
    """As `solve`, without the last step."""
    return _solve(weight, statistics, fmt, 0)


def solve_weighted(weight: FloatArray, statistics: Statistics | None, fmt: Format) -> Solved:
    """Encode a weight as it is, each column's error weighted by how large that column's input is."""
    assert statistics is not None
    judge = _Judge.of(weight, weight, live(statistics.total().second))
    candidate = kernels.encode(weight, fmt, np.diagonal(judge.moments).copy())
    losses = {"nearest": judge.share(kernels.encode(weight, fmt)), "weighted": judge.share(candidate)}
    return Solved(candidate, losses)


def proxy_loss(error: FloatArray, moments: FloatArray) -> float:
    """tr(E H E^T)."""
    return float(np.einsum("rc,rc->", error @ moments, error, dtype=np.float64))


@dataclass(frozen=True, slots=True)
class _Judge:
    """The measure that candidates are held to: the squared error of outputs against the wished weight's."""

    target: FloatArray
    moments: FloatArray
    energy: float

    @classmethod
    def of(cls, weight: FloatArray, target: FloatArray, moments: FloatArray) -> _Judge:
        return cls(target, moments, proxy_loss(weight, moments))

    def share(self, candidate: QuantizedTensor) -> float:
        error = proxy_loss(self.target - kernels.decode(candidate), self.moments)
        return error / self.energy if self.energy > 0 else 0.0


def _solve(weight: FloatArray, statistics: Statistics | None, fmt: Format, sweeps: int) -> Solved:
    assert statistics is not None
    assert supports(fmt)
    if statistics.groups and rows.apart(fmt, weight.shape):
        return rows.solve_groups(partial(_solve, sweeps=sweeps), weight, statistics.groups, fmt)
    target = wished_weight(weight, statistics, choose_correction(statistics))
    judge = _Judge.of(weight, target, live(statistics.total().second))
    candidates = {"nearest": kernels.encode(weight, fmt)}
    candidates["weighted"] = _weighted(weight, judge, fmt)
    fed = _fed_back(judge, fmt)
    if fed is not None:
        candidates["feedback"] = fed
        if sweeps:
            candidates["refined"] = _refined(judge, fed, sweeps)
    losses = {name: judge.share(candidate) for name, candidate in candidates.items()}
    best = min(reversed(candidates), key=lambda name: losses[name])
    note = (
        ""
        if fed is not None
        else (
            "the second moments of the input have no factor even with their mean added to the diagonal: "
            "codes are the nearest ones, weighted by the input's size"
        )
    )
    return Solved(candidates[best], losses, note)


def _weighted(weight: FloatArray, judge: _Judge, fmt: Format) -> QuantizedTensor:
    importance = np.diagonal(judge.moments).copy()
    try:
        return kernels.encode(judge.target, fmt, importance)
    except (ShapeError, NonFiniteError):
        # The correction, not the weight, is beyond the format.
        return kernels.encode(weight, fmt, importance)


def _fed_back(judge: _Judge, fmt: Format) -> QuantizedTensor | None:
    """Codes with feedback, under the least damping that works; None where none does."""
    for damping in DAMPING:
        try:
            fed = rounding.feed_back(judge.target, judge.moments, damping, fmt)
        except (ShapeError, NonFiniteError):
            continue
        if fed is not None:
            return fed
    return None


def _refined(judge: _Judge, fed: QuantizedTensor, sweeps: int) -> QuantizedTensor:
    moments = judge.moments.copy()
    np.einsum("ii->i", moments)[...] += np.float32(DAMPING[0])
    grid, _ = refinement.refine(judge.target, lattices.read(fed), moments, sweeps)
    return lattices.write(grid, fed)
