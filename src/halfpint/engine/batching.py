"""Continuing several texts at once: a pass over the weights serves up to `FEW_TOKENS` of them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from halfpint.engine.cache import Cache
from halfpint.engine.decoder import Decoder
from halfpint.engine.generation import prefill
from halfpint.engine.sequence import Continuation, Finish, GenerationOptions
from halfpint.errors import UsageError
from halfpint.kernels.integer_linear import FEW_TOKENS
from halfpint.tensors import FloatArray


@dataclass(frozen=True, slots=True)
class BatchRecord:
    """What a generation of several texts did.

    Attributes
    ----------
    prompt_tokens, generated_tokens : int
        Of all texts together.
    prefill_seconds : float
        From the prompts to the scores of all first new tokens.
    decode_seconds : float
        Of all steps after that.
    finishes : tuple of str
        Why each text ended; see `Finish`.
    """

    prompt_tokens: int
    generated_tokens: int
    prefill_seconds: float
    decode_seconds: float
    finishes: tuple[Finish, ...]


class BatchGeneration:
    """New tokens of several texts, step by step: iterate over it once, and read `record` at any time.

    Each text gets the tokens that it would get alone; there is no drafting.

    Parameters
    ----------
    decoder : Decoder
        The model.
    prompts : sequence of sequence of int
        Token ids of each text, of any lengths.
    options : GenerationOptions
        For each text.
    caches : sequence of Cache, optional
        Tokens before the prompts, one for each.

    Raises
    ------
    UsageError
        If there is no prompt, or an empty one.
    RoomError
        If a prompt does not fit the context with at least one new token.
    """

    __slots__ = ("_caches", "_decoder", "_texts", "record")

    def __init__(
        self,
        decoder: Decoder,
        prompts: Sequence[Sequence[int]],
        options: GenerationOptions,
        caches: Sequence[Cache] | None = None,
    ) -> None:
        if not prompts:
            raise UsageError("there is no prompt; give at least one")
        self._caches = [Cache(decoder.config) for _ in prompts] if caches is None else list(caches)
        self._decoder = decoder
        self._texts = [
            Continuation(prompt, options, cache.length, cache.limit)
            for prompt, cache in zip(prompts, self._caches, strict=True)
        ]
        self.record = self._recorded(0.0, 0.0)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Give (number of the text, token id), in turns, until all texts have ended."""
        began = time.perf_counter()
        scores = self._prefill()
        prefill_seconds, decode_seconds = time.perf_counter() - began, 0.0
        going = list(range(len(self._texts)))
        while True:
            began = time.perf_counter()
            chosen = [(number, self._texts[number].choose(row)) for number, row in zip(going, scores, strict=True)]
            first = all(self._texts[number].made == 1 for number in going)
            decode_seconds += 0.0 if first else time.perf_counter() - began
            self.record = self._recorded(prefill_seconds, decode_seconds)
            yield from chosen
            going = [number for number in going if not self._texts[number].finish]
            if not going:
                return
            began = time.perf_counter()
            scores = self._step(going)
            decode_seconds += time.perf_counter() - began
            self.record = self._recorded(prefill_seconds, decode_seconds)

    def _prefill(self) -> list[FloatArray]:
        """Scores after each prompt.

        Prompts are read one after the other, in the pieces that each would be read in alone: products with many tokens
        are bound by arithmetic, and together they would be rounded otherwise.
        """
        texts = zip(self._texts, self._caches, strict=True)
        return [prefill(self._decoder, text.prompt, cache)[0] for text, cache in texts]

    def _step(self, numbers: Sequence[int]) -> list[FloatArray]:
        """Scores after the last tokens of some texts, in passes of as many as have exact products together."""
        scores: list[FloatArray] = []
        for start in range(0, len(numbers), FEW_TOKENS):
            together = numbers[start : start + FEW_TOKENS]
            pieces = [np.array([self._texts[number].last]) for number in together]
            scores += list(self._decoder.forward_many(pieces, [self._caches[number] for number in together]))
        return scores

    def _recorded(self, prefill_seconds: float, decode_seconds: float) -> BatchRecord:
        return BatchRecord(
            sum(len(text.prompt) for text in self._texts),
            sum(text.made for text in self._texts),
            prefill_seconds,
            decode_seconds,
            tuple(text.finish for text in self._texts),
        )


def generate_many(
    decoder: Decoder, prompts: Sequence[Sequence[int]], options: GenerationOptions
) -> tuple[list[list[int]], BatchRecord]:
    """Continue several texts: their new tokens, and what it took; see `BatchGeneration`."""
    texts: list[list[int]] = [[] for _ in prompts]
    running = BatchGeneration(decoder, prompts, options)
    for number, token in running:
        texts[number].append(token)
    return texts, running.record
