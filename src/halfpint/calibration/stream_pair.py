"""Batches of text that wait side by side at the same place of a block, in two models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from halfpint.calibration.activation_store import Shelf
from halfpint.engine.routing import Routes, Routing, route, shares
from halfpint.engine.steps import Held, Products, Steps
from halfpint.kernels.blas import times_transposed
from halfpint.tensors import Array, FloatArray

_NOTHING = np.empty((0, 0), np.float32)


@dataclass(frozen=True, slots=True)
class LayerWeight:
    """A weight as it was and as the quantized stream has it.

    Attributes
    ----------
    original, quantized : float32 [rows, columns]
    bias : float32 [rows] or None
    """

    original: FloatArray
    quantized: FloatArray
    bias: FloatArray | None


@dataclass(slots=True)
class Lane:
    """One batch in one stream.

    Attributes
    ----------
    steps : Steps
        The way through the block.
    request : Products, Routing or None
        What it asks for; None at the end. A request whose input was put aside has none.
    waiting : Held or None
        That input; or the output, if it is known already; or, at the end, the hidden state.
    known : bool
        Whether the output is known.
    """

    steps: Steps
    request: Products | Routing | None = None
    waiting: Held | None = None
    known: bool = False

    def send(self, answer: Any, shelf: Shelf) -> None:
        """Go on to the next request, or to the end."""
        self.waiting, self.known = None, False
        try:
            self.request = self.steps.send(answer)
        except StopIteration as finished:
            self.request, self.waiting = None, shelf.keep(finished.value)

    def products(self) -> Products:
        """The request, which is one for products."""
        assert isinstance(self.request, Products)
        return self.request

    def put_aside(self, shelf: Shelf, known: LayerWeight | None = None) -> None:
        """Put the input aside; or the output, which is the narrower one, if its weight is known already."""
        request = self.products()
        self.known = known is not None
        self.waiting = shelf.keep(request.x if known is None else output(request.x, known.original, known.bias))
        self.request = Products(request.projections, _NOTHING, request.residual)

    def taken(self) -> FloatArray:
        """What was put aside, for the last time."""
        assert self.waiting is not None
        return self.waiting.take()


@dataclass(frozen=True, slots=True)
class Pair:
    """One batch in both streams, and which half of the text it belongs to."""

    half: int
    original: Lane
    quantized: Lane

    def begin(self, shelf: Shelf) -> None:
        """Go to the first request."""
        self.original.send(None, shelf)
        self.quantized.send(None, shelf)

    def multiply(self, weights: Sequence[LayerWeight], shelf: Shelf) -> None:
        """Answer with products, and go on to the next request."""
        x = self.original.taken()
        known = self.original.known
        self.original.send([x] if known else [output(x, item.original, item.bias) for item in weights], shelf)
        x = self.quantized.taken()
        self.quantized.send([output(x, item.quantized, item.bias) for item in weights], shelf)

    def route(self, shelf: Shelf) -> Array:
        """Send tokens to the experts that the original model chooses, in both streams, and visit every expert.

        The quantized stream weighs them by its own probabilities. So each token that an expert sees has its partner,
        at the price that an expert's statistics do not know of tokens that quantizing sends elsewhere.

        Returns
        -------
        int64 [experts]
            Tokens that went to each.
        """
        original, quantized = self.original.request, self.quantized.request
        assert isinstance(original, Routing)
        assert isinstance(quantized, Routing)
        config = original.config
        chosen = route(original.logits, config).chosen
        visited = tuple(range(config.experts))
        self.original.send(Routes(chosen, shares(original.logits, chosen, config), visited), shelf)
        self.quantized.send(Routes(chosen, shares(quantized.logits, chosen, config), visited), shelf)
        counts: Array = np.bincount(chosen.reshape(-1), minlength=config.experts)
        return counts

    def drift(self) -> FloatArray | None:
        """How far the original's residual stream is ahead where the output is added to it: float32 [n, hidden_size]."""
        first, second = self.original.products().residual, self.quantized.products().residual
        if first is None or second is None:
            return None
        ahead = first.read() - second.read()
        return ahead.reshape(-1, ahead.shape[-1])


def output(x: FloatArray, weight: FloatArray, bias: FloatArray | None) -> FloatArray:
    """Multiply float32 [n, columns] with a weight [rows, columns] and add the bias: float32 [n, rows]."""
    product = times_transposed(x, weight)
    if bias is not None:
        product += bias
    return product
