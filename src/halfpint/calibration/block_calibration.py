"""The way of all text through one block, original and quantized stream side by side."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from halfpint import kernels
from halfpint.calibration.activation_store import Shelf
from halfpint.calibration.moment_accumulators import Gathering
from halfpint.calibration.stream_pair import Lane, LayerWeight, Pair
from halfpint.engine.block import Block
from halfpint.engine.routing import Routing
from halfpint.engine.steps import Held, Products
from halfpint.errors import ShapeError
from halfpint.solvers.statistics import Statistics
from halfpint.tensors import Array, FloatArray, QuantizedTensor

Solve = Callable[[str, "Statistics | None"], Array | QuantizedTensor]
"""(tensor name, what its input looks like; None if that is not wanted, or no token came) -> the weight that the
quantized stream goes on with, of the same shape."""


@dataclass(slots=True)
class Findings:
    """What was seen on the way.

    Attributes
    ----------
    wanted : collection of str
        Tensors whose input is looked at.
    scarce_share : float
        As in `StreamOptions`.
    routed : dict of int to int64 [experts]
        Layer -> tokens that went to each expert.
    scarce : dict of str to int
        Wanted tensors whose input had few tokens, and how many.
    """

    wanted: Collection[str]
    scarce_share: float
    routed: dict[int, NDArray[np.int64]] = field(default_factory=dict)
    scarce: dict[str, int] = field(default_factory=dict)

    def statistics(self, name: str, columns: int, gathering: Gathering | None) -> Statistics | None:
        """What to tell the solver of a tensor."""
        if name not in self.wanted or gathering is None:
            return None
        if gathering.tokens < self.scarce_share * columns:
            self.scarce[name] = gathering.tokens
        return gathering.statistics


@dataclass(frozen=True, slots=True)
class Passage:
    """One block, and what all text on its way through it needs.

    Attributes
    ----------
    block : Block
        Of the original model.
    shelf : Shelf
    solve : Solve
    findings : Findings
        Added to.
    """

    block: Block
    shelf: Shelf
    solve: Solve
    findings: Findings

    def run(
        self, halves: Sequence[int], original: Sequence[Held], quantized: Sequence[Held]
    ) -> tuple[list[Held], list[Held]]:
        """Pass hidden states through the block.

        Parameters
        ----------
        halves : sequence of int
            Which half each batch belongs to.
        original, quantized : sequence of Held
            Hidden states by batch, float32 [sequences, tokens, hidden_size]; taken.

        Returns
        -------
        two lists of Held
        """
        keep = self.shelf.keep
        pairs = [
            Pair(half, Lane(self.block.steps(first, keep)), Lane(self.block.steps(second, keep)))
            for half, first, second in zip(halves, original, quantized, strict=True)
        ]
        gathering = self._go_on(pairs, None)
        while pairs[0].original.request is not None:
            weights = self._solved(pairs[0].original.products(), gathering)
            del gathering  # before the next sums are begun: these are the largest arrays of all
            gathering = self._go_on(pairs, weights)
        return _ends(pair.original for pair in pairs), _ends(pair.quantized for pair in pairs)

    def _go_on(self, pairs: Sequence[Pair], weights: Sequence[LayerWeight] | None) -> Gathering | None:
        """Answer the requests of all lanes, batch after batch, and look at the inputs that come next."""
        gathering: Gathering | None = None
        known: LayerWeight | None = None
        for number, pair in enumerate(pairs):
            if weights is None:
                pair.begin(self.shelf)
            else:
                pair.multiply(weights, self.shelf)
            if isinstance(pair.original.request, Routing):
                self._count(pair.route(self.shelf))
            if pair.original.request is None:
                continue
            if number == 0:
                gathering, known = self._begin_gathering(pair.original.products())
            if gathering is not None:
                gathering.add(pair.half, pair.original.products().x, pair.quantized.products().x, pair.drift())
            pair.original.put_aside(self.shelf, known)
            pair.quantized.put_aside(self.shelf)
        if gathering is not None:
            gathering.finish()
        return gathering

    def _begin_gathering(self, request: Products) -> tuple[Gathering | None, LayerWeight | None]:
        """Empty sums for an input that somebody wants, and the weight if they are made with it."""
        projections = request.projections
        if not any(projection.name in self.findings.wanted for projection in projections):
            return None, None
        rows, columns = projections[0].linear.shape
        if request.residual is None and (len(projections) > 1 or 2 * rows >= columns):
            return Gathering(columns), None
        weight = projections[0].linear.decode()
        return Gathering(columns, weight), LayerWeight(weight, weight, projections[0].bias)

    def _solved(self, request: Products, gathering: Gathering | None) -> list[LayerWeight]:
        solved = []
        for projection in request.projections:
            weight = projection.linear.decode()
            statistics = self.findings.statistics(projection.name, weight.shape[1], gathering)
            quantized = _float32(ask(self.solve, projection.name, statistics, weight.shape))
            solved.append(LayerWeight(weight, quantized, projection.bias))
        return solved

    def _count(self, counts: Array) -> None:
        layer = self.block.layer
        before = self.findings.routed.get(layer)
        self.findings.routed[layer] = counts if before is None else before + counts


def _ends(lanes: Iterable[Lane]) -> list[Held]:
    """Hidden states that lanes have come to."""
    states = [lane.waiting for lane in lanes]
    return [state for state in states if state is not None]


def ask(solve: Solve, name: str, statistics: Statistics | None, shape: tuple[int, ...]) -> Array | QuantizedTensor:
    """Have a weight solved.

    Raises
    ------
    ShapeError
        If the solver gave another shape.
    """
    result = solve(name, statistics)
    if result.shape != shape:
        raise ShapeError(f"{name} has shape {list(shape)}, the solver gave {list(result.shape)}")
    return result


def _float32(weight: Array | QuantizedTensor) -> FloatArray:
    """Decode what a solver gave."""
    return kernels.decode(weight) if isinstance(weight, QuantizedTensor) else weight.astype(np.float32, copy=False)
