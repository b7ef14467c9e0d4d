"""Text to token ids and back, whatever file the tokenizer came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tokenizers

from halfpint.checkpoints.tokenizer_files import SpecialTokens, tokenizer_errors, vocabulary_size
from halfpint.errors import UnsupportedError, UsageError
from halfpint.tokenization.chat import render_chat

Message = Mapping[str, Any]
"""One turn: `role` and `content`."""


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """A model's tokenizer.

    Attributes
    ----------
    model : tokenizers.Tokenizer
        Cuts texts.
    special : SpecialTokens
        Ids of tokens with a part.
    before, after : tuple of int
        Ids put around every text in addition to those that `model` puts there itself.
    chat_template : str or None
        Jinja source.
    notes : tuple of str
        What the files say of it that is ignored, or that the model cannot follow.
    """

    model: tokenizers.Tokenizer
    special: SpecialTokens
    before: tuple[int, ...]
    after: tuple[int, ...]
    chat_template: str | None
    notes: tuple[str, ...] = ()

    @property
    def vocab_size(self) -> int:
        """One more than the largest id."""
        return vocabulary_size(self.model)

    @property
    def bos_id(self) -> int | None:
        """Token that begins a text; None when there is none."""
        return self.special.bos_id

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """Tokens each of which ends a text."""
        return self.special.eos_ids

    def encode(self, text: str, add_special: bool = True) -> list[int]:
        """Cut a text into tokens.

        Parameters
        ----------
        text : str
            Special tokens that are spelled in it become tokens, as chat templates need.
        add_special : bool
            Whether to put the tokens around it that the model expects. A rendered chat has them already.

        Returns
        -------
        list of int

        Raises
        ------
        CheckpointError
            If the tokenizer contradicts itself.
        """
        with tokenizer_errors("the tokenizer"):
            ids: list[int] = self.model.encode(_without_surrogates(text), add_special_tokens=add_special).ids
        return [*self.before, *ids, *self.after] if add_special else ids

    def decode(self, ids: Sequence[int]) -> str:
        """Give the text of tokens, special ones left out.

        Raises
        ------
        UsageError
            If an id is negative or does not fit 32 bits.
        """
        if any(not 0 <= token < 1 << 32 for token in ids):
            raise UsageError(f"these are no token ids: {list(ids)[:10]}")
        with tokenizer_errors("the tokenizer"):
            return str(self.model.decode(list(ids), skip_special_tokens=True))

    def apply_chat_template(
        self,
        messages: Sequence[Message],
        add_generation_prompt: bool = True,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """Write a conversation as the text that the model was trained on.

        Parameters
        ----------
        messages : sequence of mappings
            Each with `role` and `content`.
        add_generation_prompt : bool
            Whether to end where the assistant's answer begins.
        variables : Mapping, optional
            More that the template understands, such as `tools` or `enable_thinking`.

        Returns
        -------
        str
            Encode it with `add_special=False`.

        Raises
        ------
        UnsupportedError
            If the model has no template.
        CheckpointError
            If the template fails; see `halfpint.tokenization.chat.render_chat`.
        """
        if self.chat_template is None:
            raise UnsupportedError(
                "the model has no chat template, so how to talk to it is unknown; give it plain text to continue with "
                "`halfpint generate`, or put the template of its base model beside it as chat_template.jinja"
            )
        names = {"bos": self.special.bos_id, "unk": self.special.unk_id, "pad": self.special.pad_id}
        names["eos"] = self.special.eos_ids[0] if self.special.eos_ids else None
        known: dict[str, Any] = {
            f"{role}_token": self.model.id_to_token(token) for role, token in names.items() if token is not None
        }
        known |= {"messages": list(messages), "add_generation_prompt": add_generation_prompt, "tools": None}
        return render_chat(self.chat_template, {**known, "documents": None, **(variables or {})})


def _without_surrogates(text: str) -> str:
    """Replace halves of surrogate pairs, which are no characters and which no tokenizer takes."""
    return text.encode("utf-8", errors="replace").decode("utf-8")


_CONTEXT = 8
"""Tokens kept before what is new: enough for a character and the space before a word."""

_PATIENCE = 16
"""Tokens after which text that still ends in a broken character is given as it is."""

_LONGEST_RUN = 512
"""Tokens kept at most."""


class StreamDecoder:
    """Text that comes token by token.

    Tokens are parts of characters and depend on what stands before them (a leading space), so that the text of each
    alone is not the text of all. This keeps what has been said and gives only what is certain.

    Parameters
    ----------
    tokenizer : Tokenizer
    context : sequence of int
        Tokens that stand before; their text is not given.
    """

    __slots__ = ("_ids", "_said", "_tokenizer")

    def __init__(self, tokenizer: Tokenizer, context: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._ids = list(context)[-4 * _CONTEXT :]
        self._said = len(self._ids)

    def step(self, token: int) -> str:
        """Take one more token and give the text that it settles; empty while a character is incomplete."""
        self._ids.append(token)
        pending = len(self._ids) - self._said
        return self._settle(whole=pending >= _PATIENCE)

    def finish(self) -> str:
        """Give what is left: an incomplete character as U+FFFD."""
        return self._settle(whole=True)

    def _settle(self, *, whole: bool) -> str:
        before = self._tokenizer.decode(self._ids[: self._said])
        now = self._tokenizer.decode(self._ids)
        if now.endswith("\ufffd") and not whole:
            return ""
        # What was said before can only differ in its last character, which was incomplete then.
        text = now[len(before) :] if now.startswith(before) else now[len(before.rstrip("\ufffd")) :]
        if len(self._ids) > 4 * _CONTEXT:
            self._ids = self._shortened()
        self._said = len(self._ids)
        return text

    def _shortened(self) -> list[int]:
        kept = self._ids[-_CONTEXT:]
        # Not inside a run of single bytes: they are decoded together or not at all.
        broken = "\ufffd" in self._tokenizer.decode(kept) and len(self._ids) < _LONGEST_RUN
        return self._ids if broken else kept
