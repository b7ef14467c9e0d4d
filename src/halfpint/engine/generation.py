"""Continuing a text: the prompt in pieces, then token by token, or a few at a time where they can be guessed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from halfpint.engine.cache import Cache
from halfpint.engine.decoder import Decoder
from halfpint.engine.prompt_lookup import Drafter
from halfpint.engine.sequence import Continuation, Finish, GenerationOptions
from halfpint.families import ModelConfig
from halfpint.kernels.integer_linear import FEW_TOKENS
from halfpint.tensors import FloatArray
from halfpint.tokenization import StreamDecoder, Tokenizer

PREFILL_CHUNK = 512
"""Most prompt tokens that go through the model at a time."""

_LEAST_CHUNK = 64
_ACTIVATION_FLOATS = 14 << 20

OnPrompt = Callable[[int, int], None]
"""Called with the number of prompt tokens read so far, and with all of them, after each piece."""


def unseen(done: int, total: int) -> None:
    """Show nothing."""


def chunk_tokens(config: ModelConfig) -> int:
    """Prompt tokens that go through a model at a time: as many as pay, with activations of some 60 MB at most.

    A block holds about three arrays as wide as its MLP at once, and four as wide as its hidden state.
    """
    inner = max(config.intermediate_size, config.experts_per_token * config.expert_size)
    fitting = _ACTIVATION_FLOATS // (3 * inner + 4 * config.hidden_size)
    return min(PREFILL_CHUNK, max(_LEAST_CHUNK, fitting // _LEAST_CHUNK * _LEAST_CHUNK))


def prefill(decoder: Decoder, prompt: Sequence[int], cache: Cache, on_prompt: OnPrompt = unseen) -> FloatArray:
    """Read a prompt of at least one token in pieces: scores of what follows it, float32 [1, vocab_size]."""
    chunk = chunk_tokens(decoder.config)
    whole = cache.length + len(prompt)
    for start in range(0, len(prompt), chunk):
        piece = np.array(prompt[start : start + chunk])
        scores = decoder.forward(piece, cache, last_only=True, text_length=whole)
        on_prompt(start + len(piece), len(prompt))
    return scores


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
        See `Finish`.
    drafted_tokens, accepted_tokens : int
        Tokens that were guessed, and those of them that were right.
    """

    prompt_tokens: int
    generated_tokens: int
    prefill_seconds: float
    decode_seconds: float
    finish: Finish
    drafted_tokens: int = 0
    accepted_tokens: int = 0

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
        Tokens before the prompt. At the end it holds prompt and new tokens, but for the last one given; when the
        iteration is left before, it may hold guessed tokens that were not given yet.
    on_prompt : function of (int, int)
        Called as the prompt is read.

    Raises
    ------
    UsageError
        If the prompt is empty.
    RoomError
        If the prompt does not fit the context with at least one new token.
    """

    __slots__ = ("_cache", "_decoder", "_on_prompt", "_options", "_text", "record")

    def __init__(
        self,
        decoder: Decoder,
        prompt: Sequence[int],
        options: GenerationOptions,
        cache: Cache | None = None,
        on_prompt: OnPrompt = unseen,
    ) -> None:
        self._cache = Cache(decoder.config) if cache is None else cache
        self._decoder, self._options, self._on_prompt = decoder, options, on_prompt
        self._text = Continuation(prompt, options, self._cache.length, self._cache.limit)
        self.record = GenerationRecord(len(self._text.prompt), 0, 0.0, 0.0, "")

    def __iter__(self) -> Iterator[int]:
        """Give token ids until a stop token, `max_tokens`, or the end of the context."""
        text, drafter = self._text, Drafter(self._text.prompt, self._options.draft_tokens)
        began = time.perf_counter()
        scores = prefill(self._decoder, text.prompt, self._cache, self._on_prompt)
        prefill_seconds, decode_seconds = time.perf_counter() - began, 0.0
        guessed: list[int] = []
        drafted = accepted = 0
        while True:
            began = time.perf_counter()
            tokens = self._chosen(scores, guessed)
            drafter.judge(len(guessed), len(tokens) - 1)
            drafted, accepted = drafted + len(guessed), accepted + len(tokens) - 1
            decode_seconds += time.perf_counter() - began if text.made > 1 else 0.0
            made = text.made - len(tokens)
            for token in tokens:
                made += 1
                finish = text.finish if made == text.made else ""
                self.record = GenerationRecord(
                    len(text.prompt), made, prefill_seconds, decode_seconds, finish, drafted, accepted
                )
                drafter.add(token)
                yield token
            if text.finish:
                return
            began = time.perf_counter()
            guessed = drafter.guess(min(text.left, FEW_TOKENS) - 1)
            if not self._decoder.same_stretch(self._cache.length + 1, self._cache.length + 1 + len(guessed)):
                guessed = []  # scores must not depend on tokens that may be wrong
            last_only = not guessed
            scores = self._decoder.forward(np.array([text.last, *guessed]), self._cache, last_only=last_only)
            decode_seconds += time.perf_counter() - began

    def _chosen(self, scores: FloatArray, guessed: Sequence[int]) -> list[int]:
        """Tokens by their scores, float32 [1 + guessed, vocab_size], as long as the guesses before them were right.

        What the cache holds of wrong guesses is forgotten.
        """
        tokens = [self._text.choose(scores[0])]
        for guess, row in zip(guessed, scores[1:], strict=True):
            if tokens[-1] != guess or self._text.finish:
                break
            tokens.append(self._text.choose(row))
        self._cache.truncate(self._cache.length - len(guessed) + len(tokens) - 1)
        return tokens


def stream_text(
    generation: Generation, tokenizer: Tokenizer, stop_ids: frozenset[int], before: Sequence[int] = ()
) -> Iterator[str]:
    """Give the text of a generation as it comes, in pieces of whole characters; stop tokens have no text.

    Pieces may be empty while a character is incomplete; joined, they are the whole text. `before` are tokens whose text
    this one goes on with: many tokenizers take the space off a text's first word, which is no first word then.
    """
    decoder = StreamDecoder(tokenizer, before)
    for token in generation:
        if token not in stop_ids:
            yield decoder.step(token)
    yield decoder.finish()
