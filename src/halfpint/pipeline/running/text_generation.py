"""Running a model: continue a text, or hold a conversation."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from halfpint.checkpoints.checkpoint import Checkpoint
from halfpint.engine.cache import Cache
from halfpint.engine.decoder import Decoder
from halfpint.engine.generation import Generation, OnPrompt, stream_text, unseen
from halfpint.engine.prompt_cache import PromptCache
from halfpint.engine.sampling import SamplingOptions
from halfpint.engine.sequence import GenerationOptions
from halfpint.kernels.machine import peak_memory_bytes
from halfpint.models.opening import open_model
from halfpint.pipeline.job.fingerprint import model_fingerprint
from halfpint.pipeline.options import GenerateOptions
from halfpint.pipeline.running_results import Generated
from halfpint.tokenization import Tokenizer, load_tokenizer

OnText = Callable[[str], None]
"""Called with each piece of new text, as it comes."""


def no_op(text: str) -> None:
    """Speak to nobody."""


@dataclass(frozen=True, slots=True)
class Callbacks:
    """Who listens to a generation.

    Attributes
    ----------
    on_text : function of str
        Called with each piece of new text.
    on_prompt : function of (int, int)
        Called as the prompt is read.
    """

    on_text: OnText = no_op
    on_prompt: OnPrompt = unseen


NO_CALLBACKS = Callbacks()


class TextGenerator:
    """A loaded model with its tokenizer.

    Parameters
    ----------
    checkpoint : Checkpoint
        Open; must stay open while the generator is used.
    tokenizer : Tokenizer, optional
        Of the checkpoint, where it was loaded before.
    """

    __slots__ = ("_checkpoint", "decoder", "tokenizer")

    def __init__(self, checkpoint: Checkpoint, tokenizer: Tokenizer | None = None) -> None:
        self._checkpoint = checkpoint
        self.tokenizer = load_tokenizer(checkpoint) if tokenizer is None else tokenizer
        self.decoder = Decoder.load(checkpoint, activations="int8")

    def empty_cache(self, options: GenerateOptions) -> Cache:
        """A cache for a new text."""
        return Cache(self.decoder.config, kind=options.kv_cache)

    def continue_ids(
        self,
        ids: Sequence[int],
        options: GenerateOptions,
        callbacks: Callbacks,
        cache: Cache,
        before: Sequence[int] = (),
    ) -> Generated:
        """Continue tokens that follow those in the cache; `before` are those whose text the new one goes on with."""
        stops = frozenset(self.tokenizer.eos_ids)
        sampling = SamplingOptions(
            temperature=options.temperature,
            top_k=options.top_k,
            top_p=options.top_p,
            min_p=options.min_p,
            repetition_penalty=options.repetition_penalty,
            seed=options.seed,
        )
        chosen = GenerationOptions(
            max_tokens=options.max_tokens, stop_ids=stops, draft_tokens=options.draft, sampling=sampling
        )
        cached = cache.length
        generation = Generation(self.decoder, ids, chosen, cache, callbacks.on_prompt)
        pieces = []
        for piece in stream_text(generation, self.tokenizer, stops, before):
            pieces.append(piece)
            callbacks.on_text(piece)
        record = generation.record
        return Generated(
            text="".join(pieces),
            prompt_tokens=record.prompt_tokens,
            generated_tokens=record.generated_tokens,
            prefill_tokens_per_second=record.prefill_tokens_per_second,
            decode_tokens_per_second=record.decode_tokens_per_second,
            peak_memory_bytes=peak_memory_bytes(),
            cached_tokens=cached,
            drafted_tokens=record.drafted_tokens,
            accepted_tokens=record.accepted_tokens,
        )

    def continue_text(self, prompt: str, options: GenerateOptions, callbacks: Callbacks = NO_CALLBACKS) -> Generated:
        """Continue a text from its beginning, or from what a prompt cache holds of it."""
        ids = self.tokenizer.encode(prompt)
        if options.prompt_cache is None:
            return self.continue_ids(ids, options, callbacks, self.empty_cache(options), ids)
        file = PromptCache(options.prompt_cache, model_fingerprint(self._checkpoint))
        cache = file.load(self.decoder.config, options.kv_cache, ids)
        known = cache.length
        result = self.continue_ids(ids[known:], options, callbacks, cache, ids)
        if known < len(ids) - 1:
            cache.truncate(len(ids))
            file.save(cache, ids)
        return result


def generate(
    model: str | Path, prompt: str, options: GenerateOptions, on_text: OnText = no_op, on_prompt: OnPrompt = unseen
) -> Generated:
    """Continue a text.

    Parameters
    ----------
    model : str or Path
        A checkpoint of a known family, or `demo`.
    prompt : str
    options : GenerateOptions
    on_text : function of str
        Called with each piece as it comes.
    on_prompt : function of (int, int)
        Called with the tokens of the prompt that were read, and all that will be, as it is read.

    Returns
    -------
    Generated
        `text` is the new text only.

    Raises
    ------
    UsageError
        If the prompt cache belongs to another model, or cannot be written.
    CheckpointError
        If it is damaged.
    """
    checkpoint = open_model(model)
    try:
        if options.prompt_cache is not None:
            PromptCache(options.prompt_cache, model_fingerprint(checkpoint)).check()
        return TextGenerator(checkpoint).continue_text(prompt, options, Callbacks(on_text, on_prompt))
    finally:
        checkpoint.close()


class Chat:
    """A conversation with a model, by the model's own chat template.

    Parameters
    ----------
    model : str or Path
        A checkpoint of a known family, or `demo`.
    options : GenerateOptions

    Raises
    ------
    UnsupportedError
        If the model has no chat template, or one that drops what the user says.
    """

    __slots__ = ("_begun", "_cache", "_checkpoint", "_generator", "_ids", "_messages", "_options")

    def __init__(self, model: str | Path, options: GenerateOptions) -> None:
        self._checkpoint = open_model(model)
        try:
            # Before anybody has written a message, and before the weights are loaded.
            tokenizer = load_tokenizer(self._checkpoint)
            tokenizer.apply_chat_template([{"role": "user", "content": "Hello"}])
            self._generator = TextGenerator(self._checkpoint, tokenizer)
        except BaseException:
            self._checkpoint.close()
            raise
        self._options = options
        self.reset()

    def reset(self) -> None:
        """Forget what was said."""
        self._messages: list[dict[str, str]] = []
        self._ids: list[int] = []
        # One date for the whole conversation: its beginning stays the same, and is not read again.
        self._begun = datetime.datetime.now().astimezone()
        self._cache = self._generator.empty_cache(self._options)

    def close(self) -> None:
        """Release the model's files."""
        self._checkpoint.close()

    def reply(self, user_text: str, on_text: OnText = no_op, on_prompt: OnPrompt = unseen) -> Generated:
        """Say something and have the model answer; both are remembered, or neither when an error ends the answer.

        Parameters
        ----------
        user_text : str
        on_text : function of str
            Called with each piece of the answer as it comes.
        on_prompt : function of (int, int)
            Called as what is new of the conversation is read.

        Raises
        ------
        RoomError
            If the conversation has outgrown the model's context.
        """
        messages = [*self._messages, {"role": "user", "content": user_text}]
        tokenizer = self._generator.tokenizer
        ids = tokenizer.encode(tokenizer.apply_chat_template(messages, now=self._begun), add_special=False)
        # What the cache holds of the same beginning need not be read again.
        kept = 0
        while kept < min(len(self._ids), len(ids) - 1, self._cache.length) and self._ids[kept] == ids[kept]:
            kept += 1
        self._cache.truncate(kept)
        self._ids = ids
        try:
            callbacks = Callbacks(on_text, on_prompt)
            answer = self._generator.continue_ids(ids[kept:], self._options, callbacks, self._cache)
        except BaseException:
            # Stopped within a token, some layers hold it and others do not.
            self._cache.truncate(kept)
            raise
        self._messages = [*messages, {"role": "assistant", "content": answer.text}]
        return answer
