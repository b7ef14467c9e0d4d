"""The whole model: embedding, blocks, head.

`Decoder.load` keeps every block, in few bits. To hold one block at a time, take `load_ends` and
`load_block`: `ends.embed(ids)`, then each block's `forward`, then `ends.head(hidden)` is the same computation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from halfpint.checkpoints.checkpoint import Checkpoint
from halfpint.engine.activation import softcap
from halfpint.engine.block import Block, load_block
from halfpint.engine.cache import Cache, Texts
from halfpint.engine.decode_fast_path import FewTokens, few_tokens
from halfpint.engine.rotation import varying_ropes
from halfpint.engine.weights import (
    ActivationKind,
    FileRows,
    Prepare,
    as_read,
    held,
    model_tensors,
    read_table,
    read_vector,
    read_weight,
)
from halfpint.errors import UsageError
from halfpint.families import ModelConfig, Role, Rope, read_config, stretch
from halfpint.kernels.elementwise import rms_norm
from halfpint.kernels.integer_linear import FEW_TOKENS, IntegerLinear
from halfpint.kernels.linear import Linear
from halfpint.kernels.machine import keep_freed_memory
from halfpint.tensors import Array, FloatArray

_KEPT_BYTES = 64 << 20
"""As much as the activations of a piece of a prompt take: see `halfpint.engine.generation.chunk_tokens`."""


@dataclass(frozen=True, slots=True)
class Ends:
    """What stands before the first block and after the last."""

    config: ModelConfig
    embedding: Linear | IntegerLinear | FileRows
    final_norm: FloatArray
    output: Linear | IntegerLinear | None
    """The head; None if it was not asked for."""

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
        """Score every token of the vocabulary: float32 [..., hidden_size] -> float32 [..., vocab_size].

        Always in exact integer products: noise of the head goes into scores as it is, and it is hardly ever asked for
        many tokens at once.
        """
        rows = np.ascontiguousarray(hidden.reshape(-1, hidden.shape[-1]))
        normed = rms_norm(rows, self.final_norm, self.config.norm_epsilon)
        output = self.output
        assert output is not None
        logits = output.forward(normed, exact=True) if isinstance(output, IntegerLinear) else output.forward(normed)
        return softcap(logits, self.config.logit_softcap).reshape(*hidden.shape[:-1], -1)


def load_ends(
    checkpoint: Checkpoint,
    config: ModelConfig,
    prepare: Prepare = as_read,
    activations: ActivationKind = "float32",
    *,
    head: bool = True,
) -> Ends:
    """Read embedding, last norm and head; a tied head is the embedding itself.

    Parameters
    ----------
    checkpoint, config, prepare, activations
        As for `halfpint.engine.block.load_block`.
    head : bool
        Whether to read a head that is not the embedding.

    Raises
    ------
    CheckpointError
        If a tensor is missing or has another shape than the configuration says.
    """
    tensors = {tensor.role: tensor for tensor in model_tensors(config) if tensor.layer is None}
    norm = read_vector(checkpoint, tensors[Role.FINAL_NORM], prepare, config.norm_offset)
    if config.tied_embeddings:
        both = held(read_weight(checkpoint, tensors[Role.EMBEDDING], prepare), activations)
        return Ends(config, both, norm, both)
    embedding = read_table(checkpoint, tensors[Role.EMBEDDING], prepare, activations)
    output = held(read_weight(checkpoint, tensors[Role.HEAD], prepare), activations) if head else None
    return Ends(config, embedding, norm, output)


# Tokens at a time of a text that is read again.
_PIECE_AGAIN = 512


@dataclass(frozen=True, slots=True)
class Decoder:
    """A model that is ready to run."""

    config: ModelConfig
    ends: Ends
    blocks: tuple[Block, ...]
    few: FewTokens | None = None
    """The blocks once more, for few tokens, where all of their weights are packed."""
    varying: tuple[Rope, ...] = ()
    """Ropes whose frequencies depend on the length of the text."""

    @classmethod
    def load(
        cls, checkpoint: Checkpoint, prepare: Prepare = as_read, activations: ActivationKind = "float32"
    ) -> Decoder:
        """Read a whole model, tensor by tensor.

        Parameters
        ----------
        checkpoint : Checkpoint
            Open.
        prepare : function of (tensor name, weight), optional
            Gives the weight to use in place of the one read.
        activations : str
            `int8` to generate text, `float32` for what must be exact: see `ActivationKind`. With `int8` the process
            keeps freed memory (`halfpint.kernels.machine.keep_freed_memory`).

        Raises
        ------
        CheckpointError
            If configuration and tensors do not agree.
        UnsupportedError
            If the family, or something in the configuration, is not implemented.
        """
        config = read_config(checkpoint.config)
        ends = load_ends(checkpoint, config, prepare, activations)
        blocks = tuple(load_block(checkpoint, config, layer, prepare, activations) for layer in range(config.layers))
        decoder = cls(
            config, ends, blocks, few_tokens(config, [block.parts for block in blocks]), varying_ropes(config)
        )
        if activations == "int8":
            keep_freed_memory(_KEPT_BYTES)
        return decoder

    def forward(
        self, ids: Array, cache: Cache | None = None, *, last_only: bool = False, text_length: int = 0
    ) -> FloatArray:
        """Score what follows each token of a text.

        Parameters
        ----------
        ids : integers [tokens]
            The text, or what follows the tokens in the cache.
        cache : Cache, optional
            Tokens before; these are appended.
        last_only : bool
            Score after the last token only, which saves most of the head's work.
        text_length : int
            Tokens of the whole text, where it is known that more will follow. Where frequencies depend on it and the
            tokens in the cache were read as those of a shorter text, or of a longer one, they are read again first.

        Returns
        -------
        float32 [tokens, vocab_size], or [1, vocab_size]

        Raises
        ------
        UsageError
            If there is no token, or one that is not in the vocabulary.
        RoomError
            If the cache has no room.
        """
        tokens = np.asarray(ids, np.int64).reshape(1, -1)
        if tokens.size == 0:
            raise UsageError("a text needs at least one token")
        texts = None
        if cache is not None:
            texts = Texts((cache,), (tokens.size,))
            self._grow(cache, tokens[0], text_length)
        hidden = self._hidden(tokens, texts)
        return self.ends.head(hidden[0, -1:] if last_only else hidden[0])

    def forward_many(self, pieces: Sequence[Array], caches: Sequence[Cache]) -> FloatArray:
        """Go on with several texts in one pass over the weights.

        Parameters
        ----------
        pieces : sequence of integers [tokens]
            What follows in each text, at least one token each.
        caches : sequence of Cache
            The texts so far; the pieces are appended.

        Returns
        -------
        float32 [texts, vocab_size]
            Scores after the last token of each piece. With `FEW_TOKENS` tokens or fewer in all, these are the bits that
            each text would get alone; products with more are rounded otherwise.

        Raises
        ------
        UsageError, RoomError
            As for `forward`.
        """
        counts = [len(piece) for piece in pieces]
        if not counts or min(counts) == 0:
            raise UsageError("a text needs at least one token")
        tokens = np.concatenate([np.asarray(piece, np.int64) for piece in pieces])
        texts = Texts(caches, counts)
        for cache, piece in zip(caches, pieces, strict=True):
            self._grow(cache, np.asarray(piece, np.int64), 0)
        hidden = self._hidden(tokens[np.newaxis], texts)
        return self.ends.head(hidden[0, np.cumsum(counts) - 1])

    def same_stretch(self, one: int, other: int) -> bool:
        """Whether texts of these two lengths have the same frequencies."""
        return all(stretch(rope, one) == stretch(rope, other) for rope in self.varying)

    def _grow(self, cache: Cache, piece: Array, text_length: int) -> None:
        """Take note of a text's next tokens; what was read for a text of another stretch is read again."""
        length = max(cache.length + len(piece), text_length)
        if self.varying and cache.length and not self.same_stretch(cache.text_length, length):
            known = np.array(cache.ids)
            cache.truncate(0)
            cache.text_length = length
            for start in range(0, len(known), _PIECE_AGAIN):
                again = known[start : start + _PIECE_AGAIN]
                self._hidden(again[np.newaxis], Texts((cache,), (len(again),)))
            cache.ids += known.tolist()
        cache.text_length = length
        cache.ids += piece.tolist()

    def _hidden(self, tokens: Array, texts: Texts | None) -> FloatArray:
        hidden = self.ends.embed(tokens)
        if self.few is not None and texts is not None and tokens.size <= FEW_TOKENS:
            return self.few.forward(hidden, texts)
        for block in self.blocks:
            hidden = block.forward(hidden, texts)
        return hidden

    @property
    def nbytes(self) -> int:
        """Bytes of all weights held, maps of files included; a tied head counts once."""
        outer = self.ends.embedding.nbytes + self.ends.final_norm.nbytes
        if self.ends.output is not None and self.ends.output is not self.ends.embedding:
            outer += self.ends.output.nbytes
        return outer + sum(block.nbytes for block in self.blocks)
