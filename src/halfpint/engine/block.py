"""One block of the decoder, wired by the roles of the tensors it has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from halfpint.checkpoints.checkpoint import Checkpoint
from halfpint.engine.activation import rms_norm
from halfpint.engine.attention import attend
from halfpint.engine.cache import LayerCache
from halfpint.engine.mlp import mlp
from halfpint.engine.rope import rotate, rotation
from halfpint.engine.weights import Observe, Parts, Prepare, as_read, read_parts
from halfpint.families import ModelConfig, Role
from halfpint.tensors import FloatArray


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
        observe: Observe | None = None,
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
        observe : function of (tensor name, input), optional
            Called with the input, float32 [n, columns], of every product with a weight of the block, before the
            product, in the order of the forward pass; experts see only the tokens routed to them. It must not
            change or keep the array.

        Returns
        -------
        float32 [sequences, tokens, hidden_size]
        """
        attended = self._attention(self._norm(Role.ATTENTION_INPUT_NORM, hidden), start, cache, observe)
        hidden = hidden + self._norm(Role.ATTENTION_OUTPUT_NORM, attended)
        inner = self._norm(Role.MLP_INPUT_NORM, hidden)
        transformed = mlp(self.parts, self.config, inner.reshape(-1, inner.shape[-1]), observe)
        return hidden + self._norm(Role.MLP_OUTPUT_NORM, transformed.reshape(hidden.shape))

    def _norm(self, role: Role, x: FloatArray) -> FloatArray:
        """Apply the norm of this role; families without it pass x on."""
        weight = self.parts.norms.get(role)
        return x if weight is None else rms_norm(x, weight, self.config.norm_epsilon)

    def _attention(self, x: FloatArray, start: int, cache: LayerCache | None, observe: Observe | None) -> FloatArray:
        sequences, tokens, _ = x.shape
        config = self.config
        queries, keys, values = self._projected(x.reshape(-1, x.shape[-1]), observe)
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
        projection = self.parts.projections[Role.ATTENTION_OUTPUT]
        return projection.forward(mixed.reshape(sequences * tokens, -1), observe).reshape(x.shape)

    def _projected(self, x: FloatArray, observe: Observe | None) -> tuple[FloatArray, FloatArray, FloatArray]:
        projections = self.parts.projections
        fused = projections.get(Role.ATTENTION_QKV)
        if fused is None:
            queries = projections[Role.ATTENTION_Q].forward(x, observe)
            keys = projections[Role.ATTENTION_K].forward(x, observe)
            return queries, keys, projections[Role.ATTENTION_V].forward(x, observe)
        query_end = self.config.heads * self.config.head_dim
        key_end = query_end + self.config.kv_heads * self.config.head_dim
        queries, keys, values = np.split(fused.forward(x, observe), [query_end, key_end], axis=-1)
        return queries, keys, values

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
