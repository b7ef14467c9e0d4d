"""A whole block of a decoder for few tokens, in one native call.

Between two products of one token there is work for some 3 microseconds, while a call from Python with arrays takes one
and a step of a generator another: 33 microseconds of every block, in which memory rested. What is computed, and in
which order, is written in `halfpint.engine.block`; this gives the same bits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from halfpint.kernels import _native
from halfpint.kernels.elementwise import ACTIVATIONS
from halfpint.kernels.integer_linear import IntegerLinear
from halfpint.kernels.key_values import KeyValues
from halfpint.tensors import FloatArray

Factor = tuple[IntegerLinear, FloatArray | None]
"""A weight, and the bias beside it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockWiring:
    """What a block consists of.

    Attributes
    ----------
    hidden_size, inner_size, heads, kv_heads, head_dim : int
        Sizes; `inner_size` is that of the MLP.
    epsilon, query_scale, cap : float
        Of the norms; of attention's scores, and their soft cap, 0 for none.
    window : int
        Of attention; 0 for none.
    activation : str
        A key of `halfpint.kernels.elementwise.ACTIVATIONS`.
    norms : mapping of str to float32 [n]
        Those that there are of `attention_input`, `query`, `key`, `attention_output`, `mlp_input` and `mlp_output`.
    first : sequence of Factor
        Queries, keys and values, or one weight for all of them.
    output : Factor
        Of attention.
    gates : sequence of Factor
        Gate and up, or one weight for both.
    down : Factor
        Of the MLP.
    """

    hidden_size: int
    inner_size: int
    heads: int
    kv_heads: int
    head_dim: int
    epsilon: float
    query_scale: float
    cap: float
    window: int
    activation: str
    norms: Mapping[str, FloatArray]
    first: Sequence[Factor]
    output: Factor
    gates: Sequence[Factor]
    down: Factor


class DecoderBlock:
    """A block whose weights are all packed.

    Parameters
    ----------
    wiring : BlockWiring
        Its weights stay where they are, norms and biases are copied.
    """

    __slots__ = ("_handle",)

    def __init__(self, wiring: BlockWiring) -> None:
        sizes = (wiring.hidden_size, wiring.inner_size, wiring.heads, wiring.kv_heads, wiring.head_dim)
        numbers = (wiring.epsilon, wiring.query_scale, wiring.cap)
        factors = (_pairs(wiring.first), _pairs([wiring.output]), _pairs(wiring.gates), _pairs([wiring.down]))
        activation = ACTIVATIONS[wiring.activation]
        self._handle = _native.DecoderBlock(sizes, numbers, wiring.window, activation, dict(wiring.norms), factors)

    def forward(
        self,
        hidden: FloatArray,
        texts: Sequence[tuple[KeyValues, int]],
        angles: tuple[FloatArray, FloatArray] | None,
    ) -> FloatArray:
        """Pass hidden states through the block.

        Parameters
        ----------
        hidden : float32 [tokens, hidden_size]
            Of at least one token; not changed.
        texts : sequence of (KeyValues, int)
            How many tokens go to each text, in their order.
        angles : two float32 [tokens, dimensions / 2], or None
            Cosines and sines of the tokens' places, where the block rotates.

        Returns
        -------
        float32 [tokens, hidden_size]
            The bits of `halfpint.engine.block.Block.forward` with as many tokens.
        """
        out = np.array(hidden, np.float32, order="C")
        cosines, sines = (None, None) if angles is None else angles
        self._handle.forward(out, [(held.handle, tokens) for held, tokens in texts], cosines, sines)
        return out


def _pairs(factors: Sequence[Factor]) -> list[tuple[_native.PackedIntegers, FloatArray | None]]:
    pairs = []
    for linear, bias in factors:
        assert linear.handle is not None
        pairs.append((linear.handle, bias))
    return pairs
