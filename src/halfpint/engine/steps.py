"""A block's forward pass as a conversation: it asks for products and goes on with their outputs.

The pass is written once, as a generator (`Block.steps`). Running a model answers every request at once (`run`);
calibration lets the same generators of many batches and of two models wait at a request until it has looked at all of
their inputs, and chosen the weight. For its sake no generator keeps an activation in a variable while it waits: an
input belongs to the request, and what is needed again later is handed to `keep`, which may put it on disk.

What passes to and fro is named tuples: a step of decoding makes hundreds, and frozen records take four times as long.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any, NamedTuple, Protocol

from halfpint.engine.routing import Routing, route
from halfpint.engine.weights import Projection, project, project_gated
from halfpint.kernels.integer_linear import Activations
from halfpint.tensors import FloatArray


class Held(Protocol):
    """An array put aside."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the array."""

    def read(self) -> FloatArray:
        """Look at it: float32, not to be changed. It stays where it is."""

    def take(self) -> FloatArray:
        """Look at it for the last time: its place may be used for something else afterwards."""


class Here(NamedTuple):
    """An array that stays in memory, as it is."""

    array: FloatArray

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the array."""
        return self.array.shape

    def read(self) -> FloatArray:
        """Look at it."""
        return self.array

    def take(self) -> FloatArray:
        """Look at it for the last time."""
        return self.array


Keep = Callable[[FloatArray], Held]
"""Puts an array aside until it is needed again."""


class Products(NamedTuple):
    """Asks for the product of one input with one or more weights.

    Attributes
    ----------
    projections : tuple of Projection
        All that have this input, in the order of the forward pass.
    x : float32 [n, columns]
        The input.
    residual : Held or None
        The hidden state, float32 [sequences, tokens, hidden_size], that the output is added to as it is; None when
        something happens to it first (a norm, an activation, a share of an expert).
    gated_by : str
        The activation, where the first output is a gate of the second: who answers may gate them, and give one array.
    """

    projections: tuple[Projection, ...]
    x: FloatArray
    residual: Held | None = None
    gated_by: str = ""


Steps = Generator["Products | Routing", Any, FloatArray]
"""Yields requests. A `Products` is answered with a sequence of float32 [n, rows], one for each of its projections and
free to be changed by the generator; a `Routing` with `Routes`. Returns hidden states."""

Perform = Callable[[Products], Sequence[FloatArray]]
"""Carries out products."""


def perform(request: Products) -> Sequence[FloatArray]:
    """Carry out products with the weights as they are held."""
    x = Activations(request.x)  # rounded once, if at all
    if request.gated_by:
        gated = project_gated(request.projections, x, request.gated_by)
        if gated is not None:
            return (gated,)
    return project(request.projections, x)


def run(steps: Steps, perform: Perform = perform) -> FloatArray:
    """Answer every request at once, and give what the generator returns."""
    answer: Any = None
    while True:
        try:
            request = steps.send(answer)
        except StopIteration as finished:
            result: FloatArray = finished.value
            return result
        answer = perform(request) if isinstance(request, Products) else route(request.logits, request.config)
