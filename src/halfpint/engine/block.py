"""One block of the decoder, wired by the roles of the tensors it has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from halfpint.checkpoints.checkpoint import Checkpoint
from halfpint.engine.attention import attend
from halfpint.engine.cache import Texts
from halfpint.engine.mlp import mlp
from halfpint.engine.rotation import rotation
from halfpint.engine.steps import Held, Here, Keep, Perform, Products, Steps, perform, run
from halfpint.engine.weights import ActivationKind, Parts, Prepare, as_read, read_parts
from halfpint.families import ModelConfig, Role
from halfpint.kernels.elementwise import add, rms_norm, rotate
from halfpint.tensors import FloatArray

_SEPARATE = (Role.ATTENTION_Q, Role.ATTENTION_K, Role.ATTENTION_V)


@dataclass(frozen=True, slots=True)
class Block:
    """Attention and MLP of one layer, each added to the hidden state."""

    config: ModelConfig
    layer: int
    parts: Parts

    def forward(self, hidden: FloatArray, texts: Texts | None = None, perform: Perform = perform) -> FloatArray:
        """Pass hidden states through the block.

        Parameters
        ----------
        hidden : float32 [sequences, tokens, hidden_size]
            Not changed.
        texts : Texts, optional
            Where the tokens stand, and what comes before them; then there is one sequence, of all rows, and their keys
            and values are appended to the caches. Without it, sequences begin with these tokens.
        perform : function of Products
            Carries out the products with the block's weights, in the order of the forward pass; experts see only
            the tokens routed to them.

        Returns
        -------
        float32 [sequences, tokens, hidden_size]
        """
        return run(self.steps(Here(hidden), texts=texts), perform)

    def steps(self, hidden: Held, keep: Keep = Here, *, texts: Texts | None = None) -> Steps:
        """Pass hidden states through the block, asking for every product: see `halfpint.engine.steps`.

        Parameters
        ----------
        hidden : Held, float32 [sequences, tokens, hidden_size]
            Taken.
        keep : function of array
            Puts the hidden state between attention and MLP aside.
        texts
            As for `forward`.

        Returns
        -------
        Steps
            Returning float32 [sequences, tokens, hidden_size].
        """
        attended = self._norm(Role.ATTENTION_OUTPUT_NORM, (yield from self._attention(hidden, texts)))
        middle = keep(_sum(attended, hidden.take()))
        del attended

        def inner() -> FloatArray:
            x = middle.read()
            return self._norm(Role.MLP_INPUT_NORM, x.reshape(-1, x.shape[-1]))

        transformed = yield from mlp(self.parts, self.config, inner, self._target(Role.MLP_OUTPUT_NORM, middle))
        return _sum(self._norm(Role.MLP_OUTPUT_NORM, transformed), middle.take())

    def _norm(self, role: Role, x: FloatArray) -> FloatArray:
        """Apply the norm of this role; families without it pass x on."""
        weight = self.parts.norms.get(role)
        return x if weight is None else rms_norm(x, weight, self.config.norm_epsilon)

    def _target(self, norm: Role, residual: Held) -> Held | None:
        """What an output is added to as it is; None when it passes a norm first."""
        return None if norm in self.parts.norms else residual

    def _attention(self, hidden: Held, texts: Texts | None) -> Steps:
        sequences = hidden.shape[0]
        # Nested, so that nothing but the request holds its input while this waits.
        (out,) = yield Products(
            (self.parts.projections[Role.ATTENTION_OUTPUT],),
            self._mixed((yield self._first(hidden)), sequences, texts),
            self._target(Role.ATTENTION_OUTPUT_NORM, hidden),
        )
        attended: FloatArray = out
        return attended

    def _first(self, hidden: Held) -> Products:
        """What the block begins with: queries, keys and values."""
        projections = self.parts.projections
        roles = (Role.ATTENTION_QKV,) if Role.ATTENTION_QKV in projections else _SEPARATE
        x = hidden.read()
        normed = self._norm(Role.ATTENTION_INPUT_NORM, x.reshape(-1, x.shape[-1]))
        return Products(tuple([projections[role] for role in roles]), normed)

    def _mixed(self, outputs: Sequence[FloatArray], sequences: int, texts: Texts | None) -> FloatArray:
        """Values mixed by attention, float32 [n, heads * head_dim], for the outputs of the first projections."""
        queries, keys, values = outputs if len(outputs) == 3 else self._split(outputs[0])
        queries, keys = self._heads(Role.QUERY_NORM, queries), self._heads(Role.KEY_NORM, keys)
        rope = self.config.layer_rope(self.layer)
        if rope is not None:
            tokens = len(queries) // sequences
            if texts is None:
                cosines, sines = _repeated(rotation(rope, 0, tokens, tokens), sequences)
            else:
                cosines, sines = texts.angles(rope)
            rotate(queries, self.config.head_dim, cosines, sines)
            rotate(keys, self.config.head_dim, cosines, sines)
        if texts is None:
            return self._attend(queries, keys, values, sequences)
        return self._attend_to_texts(queries, keys, values, texts)

    def _attend_to_texts(self, queries: FloatArray, keys: FloatArray, values: FloatArray, texts: Texts) -> FloatArray:
        """Attention of every row to its own text, whose cache goes on by it: float32 [n, heads * head_dim]."""
        config, mixed = self.config, []
        window = config.layer_window(self.layer)
        for span in texts.spans:
            held, rows = span.cache.layers[self.layer], slice(span.begin, span.end)
            held.append(keys[rows], values[rows])
            mixed.append(
                held.attend(queries[rows], scale=config.query_scale, window=window, cap=config.attention_softcap)
            )
        return mixed[0] if len(mixed) == 1 else np.concatenate(mixed)

    def _attend(self, queries: FloatArray, keys: FloatArray, values: FloatArray, sequences: int) -> FloatArray:
        """Attention within sequences of equal length: float32 [n, heads * head_dim]."""
        config = self.config
        split = [
            x.reshape(sequences, -1, x.shape[-1] // config.head_dim, config.head_dim) for x in (queries, keys, values)
        ]
        mixed = attend(
            split[0],
            split[1].swapaxes(1, 2),
            split[2].swapaxes(1, 2),
            scale=config.query_scale,
            window=config.layer_window(self.layer),
            cap=config.attention_softcap,
        )
        return mixed.reshape(queries.shape)

    def _split(self, fused: FloatArray) -> list[FloatArray]:
        """Queries, keys and values of one fused projection."""
        query_end = self.config.heads * self.config.head_dim
        key_end = query_end + self.config.kv_heads * self.config.head_dim
        return [np.ascontiguousarray(part) for part in np.split(fused, [query_end, key_end], axis=-1)]

    def _heads(self, role: Role, x: FloatArray) -> FloatArray:
        """Normalise, over all heads together or over each, as the norm's length says: float32 [n, columns]."""
        weight = self.parts.norms.get(role)
        if weight is None:
            return x
        return rms_norm(x.reshape(-1, weight.size), weight, self.config.norm_epsilon).reshape(x.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the weights held, maps of files included."""
        projections = [*self.parts.projections.values(), *self.parts.experts.values()]
        return sum(item.linear.nbytes for item in projections) + _bytes_of(self.parts.norms)


def _bytes_of(arrays: Mapping[Role, FloatArray]) -> int:
    return sum(array.nbytes for array in arrays.values())


def _sum(fresh: FloatArray, hidden: FloatArray) -> FloatArray:
    """Add a hidden state to an array [n, hidden_size] that nobody else holds; the sum takes its place."""
    add(fresh, hidden.reshape(fresh.shape))
    return fresh.reshape(hidden.shape)


def _repeated(angles: tuple[FloatArray, FloatArray], times: int) -> tuple[FloatArray, FloatArray]:
    """Cosines and sines of sequences that all begin at the same place."""
    return angles if times == 1 else (np.tile(angles[0], (times, 1)), np.tile(angles[1], (times, 1)))


def load_block(
    checkpoint: Checkpoint,
    config: ModelConfig,
    layer: int,
    prepare: Prepare = as_read,
    activations: ActivationKind = "float32",
) -> Block:
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
    activations : str
        What products see of their inputs: see `ActivationKind`.

    Raises
    ------
    CheckpointError
        If a tensor is missing or has another shape than the configuration says.
    """
    return Block(config, layer, read_parts(checkpoint, config, layer, prepare, activations))
