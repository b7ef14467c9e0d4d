"""One block of the decoder, wired by the roles of the tensors it has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from halfpint.checkpoints.checkpoint import Checkpoint
from halfpint.engine.activation import rms_norm
from halfpint.engine.attention import attend
from halfpint.engine.cache import LayerCache
from halfpint.engine.mlp import mlp
from halfpint.engine.rope import rotate, rotation
from halfpint.engine.steps import Held, Here, Keep, Perform, Products, Steps, perform, run
from halfpint.engine.weights import Parts, Prepare, as_read, read_parts
from halfpint.families import ModelConfig, Role
from halfpint.tensors import FloatArray

_SEPARATE = (Role.ATTENTION_Q, Role.ATTENTION_K, Role.ATTENTION_V)


@dataclass(frozen=True, slots=True)
class Block:
    """Attention and MLP of one layer, each added to the hidden state."""

    config: ModelConfig
    layer: int
    parts: Parts

    def forward(
        self,
        hidden: FloatArray,
        *,
        start: int = 0,
        cache: LayerCache | None = None,
        perform: Perform = perform,
    ) -> FloatArray:
        """Pass hidden states through the block.

        Parameters
        ----------
        hidden : float32 [sequences, tokens, hidden_size]
            Not changed.
        start : int
            Position of the first token; the cache, if there is one, holds as many.
        cache : LayerCache, optional
            Keys and values of the tokens before; those of these tokens are appended.
        perform : function of Products
            Carries out the products with the block's weights, in the order of the forward pass; experts see only
            the tokens routed to them.

        Returns
        -------
        float32 [sequences, tokens, hidden_size]
        """
        return run(self.steps(Here(hidden), start=start, cache=cache), perform)

    def steps(self, hidden: Held, keep: Keep = Here, *, start: int = 0, cache: LayerCache | None = None) -> Steps:
        """Pass hidden states through the block, asking for every product: see `halfpint.engine.steps`.

        Parameters
        ----------
        hidden : Held, float32 [sequences, tokens, hidden_size]
            Taken.
        keep : function of array
            Puts the hidden state between attention and MLP aside.
        start, cache
            As for `forward`.

        Returns
        -------
        Steps
            Returning float32 [sequences, tokens, hidden_size].
        """
        attended = self._norm(Role.ATTENTION_OUTPUT_NORM, (yield from self._attention(hidden, start, cache)))
        middle = keep(hidden.take() + attended)
        del attended

        def inner() -> FloatArray:
            x = self._norm(Role.MLP_INPUT_NORM, middle.read())
            return x.reshape(-1, x.shape[-1])

        transformed = yield from mlp(self.parts, self.config, inner, self._target(Role.MLP_OUTPUT_NORM, middle))
        result = middle.take()
        return result + self._norm(Role.MLP_OUTPUT_NORM, transformed.reshape(result.shape))

    def _norm(self, role: Role, x: FloatArray) -> FloatArray:
        """Apply the norm of this role; families without it pass x on."""
        weight = self.parts.norms.get(role)
        return x if weight is None else rms_norm(x, weight, self.config.norm_epsilon)

    def _target(self, norm: Role, residual: Held) -> Held | None:
        """What an output is added to as it is; None when it passes a norm first."""
        return None if norm in self.parts.norms else residual

    def _attention(self, hidden: Held, start: int, cache: LayerCache | None) -> Steps:
        sequences = hidden.shape[0]
        # Nested, so that nothing but the request holds its input while this waits.
        (out,) = yield Products(
            (self.parts.projections[Role.ATTENTION_OUTPUT],),
            self._mixed((yield self._first(hidden)), sequences, start, cache),
            self._target(Role.ATTENTION_OUTPUT_NORM, hidden),
        )
        attended: FloatArray = out.reshape(hidden.shape)
        return attended

    def _first(self, hidden: Held) -> Products:
        """What the block begins with: queries, keys and values."""
        projections = self.parts.projections
        roles = (Role.ATTENTION_QKV,) if Role.ATTENTION_QKV in projections else _SEPARATE
        x = self._norm(Role.ATTENTION_INPUT_NORM, hidden.read())
        return Products(tuple(projections[role] for role in roles), x.reshape(-1, x.shape[-1]))

    def _mixed(self, outputs: Sequence[FloatArray], sequences: int, start: int, cache: LayerCache | None) -> FloatArray:
        """Values mixed by attention, float32 [n, heads * head_dim], for the outputs of the first projections."""
        config = self.config
        queries, keys, values = outputs if len(outputs) == 3 else self._split(outputs[0])
        tokens = len(queries) // sequences
        queries = self._heads(Role.QUERY_NORM, queries, config.heads, sequences)
        keys = self._heads(Role.KEY_NORM, keys, config.kv_heads, sequences)
        values = values.reshape(sequences, tokens, config.kv_heads, config.head_dim)
        rope = config.layer_rope(self.layer)
        if rope is not None:
            cosines, sines = rotation(rope, start, tokens)
            queries, keys = rotate(queries, cosines, sines), rotate(keys, cosines, sines)
        if cache is None:
            keys, values = keys.swapaxes(1, 2), values.swapaxes(1, 2)
        else:
            keys, values = cache.extend(keys, values)
        window = config.layer_window(self.layer)
        scale, cap = config.query_scale, config.attention_softcap
        mixed = attend(queries, keys, values, scale=scale, window=window, cap=cap)
        return mixed.reshape(sequences * tokens, -1)

    def _split(self, fused: FloatArray) -> list[FloatArray]:
        """Queries, keys and values of one fused projection."""
        query_end = self.config.heads * self.config.head_dim
        key_end = query_end + self.config.kv_heads * self.config.head_dim
        return np.split(fused, [query_end, key_end], axis=-1)

    def _heads(self, role: Role, x: FloatArray, heads: int, sequences: int) -> FloatArray:
        """Normalise, over all heads together or over each, as the norm's length says, and split into heads."""
        weight = self.parts.norms.get(role)
        if weight is not None and weight.size == x.shape[-1]:
            x = rms_norm(x, weight, self.config.norm_epsilon)
        split = x.reshape(sequences, -1, heads, self.config.head_dim)
        if weight is not None and weight.size != x.shape[-1]:
            split = rms_norm(split, weight, self.config.norm_epsilon)
        return split

    @property
    def nbytes(self) -> int:
        """Bytes of the weights held, maps of files included."""
        projections = [*self.parts.projections.values(), *self.parts.experts.values()]
        return sum(item.linear.nbytes for item in projections) + _bytes_of(self.parts.norms)


def _bytes_of(arrays: Mapping[Role, FloatArray]) -> int:
    return sum(array.nbytes for array in arrays.values())


def load_block(checkpoint: Checkpoint, config: ModelConfig, layer: int, prepare: Prepare = as_read) -> Block:
    """Read one block.

    Parameters
    ----------
    checkpoint : Checkpoint
        Open.
    config : ModelConfig
        Of the checkpoint.
    layer : int
        Which.
    prepare : function of (tensor name, weight), optional
        Gives the weight to use in place of the one read.

    Raises
    ------
    CheckpointError
        If a tensor is missing or has another shape than the configuration says.
    """
    return Block(config, layer, read_parts(checkpoint, config, layer, prepare))
