"""The new tokens of one text: how they are chosen, and when they end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from halfpint.engine.sampling import SamplingOptions, choose
from halfpint.errors import NonFiniteError, RoomError, UsageError
from halfpint.tensors import FloatArray

Finish = Literal["stop", "length", "context", ""]
"""Why a text ended: a stop token came, `max_tokens` were made, or the context is full; empty while it goes on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationOptions:
    """How long to go on, and how to choose.

    Attributes
    ----------
    max_tokens : int
        Most new tokens.
    stop_ids : frozenset of int
        Tokens that end the text; the one that does is given too. Usually the tokenizer's `eos_ids`.
    draft_tokens : int
        Most tokens to guess from the text and check in one pass; 0 for none. The text does not depend on it: a pass has
        no more tokens than get the same products as single ones, `FEW_TOKENS`.
    sampling : SamplingOptions
        How the next token is chosen.
    """

    max_tokens: int = 128
    stop_ids: frozenset[int] = frozenset()
    draft_tokens: int = 0
    sampling: SamplingOptions = field(default_factory=SamplingOptions)

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise UsageError(f"max_tokens must be positive, got {self.max_tokens}")
        if self.draft_tokens < 0:
            raise UsageError(f"draft_tokens must be 0 or more, got {self.draft_tokens}")


class Continuation:
    """A text and its new tokens.

    Parameters
    ----------
    prompt : sequence of int
        Token ids, at least one.
    options : GenerationOptions
    held, limit : int
        Tokens that stand before the prompt, and most tokens that the context holds.

    Raises
    ------
    UsageError
        If the prompt is empty.
    RoomError
        If the prompt does not fit the context with at least one new token.
    """

    __slots__ = ("_generator", "_options", "_room", "_seen", "finish", "prompt")

    def __init__(self, prompt: Sequence[int], options: GenerationOptions, held: int, limit: int) -> None:
        self.prompt = tuple(prompt)
        if not self.prompt:
            raise UsageError("the prompt is empty; give at least one token")
        if held + len(self.prompt) >= limit:
            raise RoomError(
                f"{held + len(self.prompt)} tokens of prompt leave no room in the context of {limit}; shorten the "
                "prompt"
            )
        self.finish: Finish = ""
        self._options = options
        self._seen = list(self.prompt)
        # One more than the context holds: the last token need not be read.
        self._room = limit - held - len(self.prompt) + 1
        self._generator = np.random.default_rng(options.sampling.seed)

    @property
    def made(self) -> int:
        """New tokens so far."""
        return len(self._seen) - len(self.prompt)

    @property
    def left(self) -> int:
        """New tokens that may still come."""
        return min(self._options.max_tokens, self._room) - self.made

    @property
    def last(self) -> int:
        """The last token."""
        return self._seen[-1]

    def choose(self, logits: FloatArray) -> int:
        """Choose the next token by its scores, float32 [vocab_size], and see whether it ends the text.

        Raises
        ------
        NonFiniteError
            If a score is NaN or infinite.
        """
        if not np.isfinite(logits).all():
            raise NonFiniteError("the model computes NaN or infinity; `halfpint verify` finds the tensor")
        token = choose(logits, self._options.sampling, self._generator, self._seen)
        self._seen.append(token)
        if token in self._options.stop_ids:
            self.finish = "stop"
        elif self.made >= self._options.max_tokens:
            self.finish = "length"
        elif self.made >= self._room:
            self.finish = "context"
        return token
