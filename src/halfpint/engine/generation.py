"""Continuing a text: the prompt in pieces, then token by token."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from halfpint.engine.cache import Cache
from halfpint.engine.decoder import Decoder
from halfpint.engine.sampling import SamplingOptions, choose
from halfpint.errors import NonFiniteError, RoomError, UsageError
from halfpint.tensors import FloatArray
from halfpint.tokenization import StreamDecoder, Tokenizer

PREFILL_CHUNK = 512
"""Prompt tokens that go through the model at a time: bounds the memory of activations."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationOptions:
    """How long to go on, and how to choose.

    Attributes
    ----------
    max_tokens : int
        Most new tokens.
    stop_ids : frozenset of int
        Tokens that end the text; the one that does is given too. Usually the tokenizer's `eos_ids`.
    sampling : SamplingOptions
        How the next token is chosen.
    """

    max_tokens: int = 128
    stop_ids: frozenset[int] = frozenset()
    sampling: SamplingOptions = field(default_factory=SamplingOptions)

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise UsageError(f"max_tokens must be positive, got {self.max_tokens}")


@dataclass(frozen=True, slots=True)
class GenerationRecord:
    """What a generation did.

    Attributes
    ----------
    prompt_tokens, generated_tokens : int
        Tokens of the prompt, and new ones; a stop token counts.
    prefill_seconds : float
        From the prompt to the scores of the first new token.
    decode_seconds : float
        Of all steps after that: as many as new tokens, less one.
    finish : str
        `stop`: a stop token came; `length`: `max_tokens` were made; `context`: the context is full; empty while
        it goes on.
    """

    prompt_tokens: int
    generated_tokens: int
    prefill_seconds: float
    decode_seconds: float
    finish: Literal["stop", "length", "context", ""]

    @property
    def prefill_tokens_per_second(self) -> float:
        """Prompt tokens per second."""
        return self.prompt_tokens / self.prefill_seconds if self.prefill_seconds > 0 else 0.0

    @property
    def decode_tokens_per_second(self) -> float:
        """New tokens per second, the first not counted: it comes from the prompt. 0 when there was but one."""
        steps = self.generated_tokens - 1
        return steps / self.decode_seconds if steps > 0 and self.decode_seconds > 0 else 0.0


class Generation:
    """New tokens, one by one: iterate over it once, and read `record` at any time.

    Parameters
    ----------
    decoder : Decoder
        The model.
    prompt : sequence of int
        Token ids, at least one; what follows the tokens in `cache`.
    options : GenerationOptions
        How long, and how.
    cache : Cache, optional
        Tokens before the prompt; it holds prompt and new tokens afterwards, but for the last one given.

    Raises
    ------
    UsageError
        If the prompt is empty.
    RoomError
        If the prompt does not fit the context with at least one new token.
    """

    __slots__ = ("_cache", "_decoder", "_options", "_prompt", "record")

    def __init__(
        self, decoder: Decoder, prompt: Sequence[int], options: GenerationOptions, cache: Cache | None = None
    ) -> None:
        self._cache = Cache(decoder.config) if cache is None else cache
        self._decoder, self._options, self._prompt = decoder, options, tuple(prompt)
        if not self._prompt:
            raise UsageError("the prompt is empty; give at least one token")
        held = self._cache.length + len(self._prompt)
        if held >= self._cache.limit:
            raise RoomError(
                f"{held} tokens of prompt leave no room in the context of {self._cache.limit}; shorten the prompt"
            )
        self.record = GenerationRecord(len(self._prompt), 0, 0.0, 0.0, "")

    def __iter__(self) -> Iterator[int]:
        """Give token ids until a stop token, `max_tokens`, or the end of the context."""
        generator = np.random.default_rng(self._options.sampling.seed)
        began = time.perf_counter()
        logits = self._prefill()
        prefill_seconds = time.perf_counter() - began
        seen, decode_seconds = list(self._prompt), 0.0
        while True:
            began = time.perf_counter()
            if not np.isfinite(logits).all():
                raise NonFiniteError("the model computes NaN or infinity; `halfpint verify` finds the tensor")
            token = choose(logits, self._options.sampling, generator, seen)
            seen.append(token)
            made = len(seen) - len(self._prompt)
            finish = self._finish(token, made)
            decode_seconds += time.perf_counter() - began if made > 1 else 0.0
            self.record = GenerationRecord(len(self._prompt), made, prefill_seconds, decode_seconds, finish)
            yield token
            if finish:
                return
            began = time.perf_counter()
            logits = self._decoder.forward(np.array([token]), self._cache, last_only=True)[0]
            decode_seconds += time.perf_counter() - began

    def _prefill(self) -> FloatArray:
        for start in range(0, len(self._prompt), PREFILL_CHUNK):
            piece = np.array(self._prompt[start : start + PREFILL_CHUNK])
            logits = self._decoder.forward(piece, self._cache, last_only=True)
        last: FloatArray = logits[0]
        return last

    def _finish(self, token: int, made: int) -> Literal["stop", "length", "context", ""]:
        if token in self._options.stop_ids:
            return "stop"
        if made >= self._options.max_tokens:
            return "length"
        return "context" if self._cache.length >= self._cache.limit else ""


def stream_text(generation: Generation, tokenizer: Tokenizer, stop_ids: frozenset[int]) -> Iterator[str]:
    """Give the text of a generation as it comes, in pieces of whole characters; stop tokens have no text.

    Pieces may be empty while a character is incomplete; joined, they are the whole text.
    """
    decoder = StreamDecoder(tokenizer)
    for token in generation:
        if token not in stop_ids:
            yield decoder.step(token)
    yield decoder.finish()
