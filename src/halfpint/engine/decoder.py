"""The whole model: embedding, blocks, head.

`Decoder.load` keeps every block, in the bytes of the file. To hold one block at a time, take `load_ends` and
`load_block`: `ends.embed(ids)`, then each block's `forward`, then `ends.head(hidden)` is the same computation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from halfpint.checkpoints.checkpoint import Checkpoint
from halfpint.engine.activation import rms_norm, softcap
from halfpint.engine.block import Block, load_block
from halfpint.engine.cache import Cache
from halfpint.engine.weights import Prepare, as_read, model_tensors, read_vector, read_weight
from halfpint.errors import UsageError
from halfpint.families import ModelConfig, Role, read_config
from halfpint.kernels.linear import Linear
from halfpint.tensors import Array, FloatArray


@dataclass(frozen=True, slots=True)
class Ends:
    """What stands before the first block and after the last."""

    config: ModelConfig
    embedding: Linear
    final_norm: FloatArray
    output: Linear

    def embed(self, ids: Array) -> FloatArray:
        """Look tokens up.

        Parameters
        ----------
        ids : integers [sequences, tokens]
            Token ids.

        Returns
        -------
        float32 [sequences, tokens, hidden_size]

        Raises
        ------
        UsageError
            If an id is not in the vocabulary.
        """
        if ids.size and (ids.min() < 0 or ids.max() >= self.config.vocab_size):
            raise UsageError(
                f"token ids from {ids.min()} to {ids.max()} for a vocabulary of {self.config.vocab_size}; "
                "is this the model's own tokenizer?"
            )
        hidden = self.embedding.rows(ids.reshape(-1)).reshape(*ids.shape, -1)
        if self.config.embedding_scale != 1.0:
            hidden *= np.float32(self.config.embedding_scale)
        return hidden

    def head(self, hidden: FloatArray) -> FloatArray:
        """Score every token of the vocabulary: float32 [..., hidden_size] -> float32 [..., vocab_size]."""
        normed = rms_norm(hidden, self.final_norm, self.config.norm_epsilon)
        logits = self.output.forward(normed.reshape(-1, hidden.shape[-1]))
        return softcap(logits, self.config.logit_softcap).reshape(*hidden.shape[:-1], -1)


def load_ends(checkpoint: Checkpoint, config: ModelConfig, prepare: Prepare = as_read) -> Ends:
    """Read embedding, last norm and head; a tied head is the embedding itself.

    Raises
    ------
    CheckpointError
        If a tensor is missing or has another shape than the configuration says.
    """
    tensors = {tensor.role: tensor for tensor in model_tensors(config) if tensor.layer is None}
    embedding = Linear(read_weight(checkpoint, tensors[Role.EMBEDDING], prepare))
    norm = read_vector(checkpoint, tensors[Role.FINAL_NORM], prepare, config.norm_offset)
    tied = config.tied_embeddings
    output = embedding if tied else Linear(read_weight(checkpoint, tensors[Role.HEAD], prepare))
    return Ends(config, embedding, norm, output)


@dataclass(frozen=True, slots=True)
class Decoder:
    """A model that is ready to run."""

    config: ModelConfig
    ends: Ends
    blocks: tuple[Block, ...]

    @classmethod
    def load(cls, checkpoint: Checkpoint, prepare: Prepare = as_read) -> Decoder:
        """Read a whole model; weights keep the bytes they have in the file, and stay mapped where they can.

        Raises
        ------
        CheckpointError
            If configuration and tensors do not agree.
        UnsupportedError
            If the family, or something in the configuration, is not implemented.
        """
        config = read_config(checkpoint.config)
        ends = load_ends(checkpoint, config, prepare)
        blocks = (load_block(checkpoint, config, layer, prepare) for layer in range(config.layers))
        return cls(config, ends, tuple(blocks))

    def forward(self, ids: Array, cache: Cache | None = None, *, last_only: bool = False) -> FloatArray:
        """Score what follows each token of a text.

        Parameters
        ----------
        ids : integers [tokens]
            The text, or what follows the tokens in the cache.
        cache : Cache, optional
            Tokens before; these are appended.
        last_only : bool
            Score after the last token only, which saves most of the head's work.

        Returns
        -------
        float32 [tokens, vocab_size], or [1, vocab_size]
        """
        tokens = np.asarray(ids, np.int64).reshape(1, -1)
        if tokens.size == 0:
            raise UsageError("a text needs at least one token")
        start = 0 if cache is None else cache.length
        hidden = self.ends.embed(tokens)
        for block in self.blocks:
            layer_cache = None if cache is None else cache.layers[block.layer]
            hidden = block.forward(hidden, start=start, cache=layer_cache)
        return self.ends.head(hidden[0, -1:] if last_only else hidden[0])

    @property
    def nbytes(self) -> int:
        """Bytes of all weights held, maps of files included; a tied head counts once."""
        outer = self.ends.embedding.nbytes + self.ends.final_norm.nbytes
        if self.ends.output is not self.ends.embedding:
            outer += self.ends.output.nbytes
        return outer + sum(block.nbytes for block in self.blocks)
