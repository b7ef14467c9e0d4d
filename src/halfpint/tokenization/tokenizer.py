"""Text to token ids and back, whatever file the tokenizer came from."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import tokenizers

from halfpint.checkpoints.tokenizer_files import SpecialTokens, tokenizer_errors, vocabulary_size
from halfpint.errors import UnsupportedError, UsageError
from halfpint.tokenization.byte_tokens import decode_bytes_apart
from halfpint.tokenization.chat_templates import FIXED_DATE, render_chat
from halfpint.tokenization.content_form import Message, Specials, in_form, shows

_BROKEN = "\ufffd"


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
    decoded_as : Mapping of int to int
        Tokens whose text another one has, by the id of that one; -1 for tokens without text. They are never made.
    """

    model: tokenizers.Tokenizer
    special: SpecialTokens
    before: tuple[int, ...]
    after: tuple[int, ...]
    chat_template: str | None
    notes: tuple[str, ...] = ()
    decoded_as: Mapping[int, int] = field(default_factory=dict)

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

        Bytes that are no UTF-8 become one U+FFFD per broken part, as in Python's `errors="replace"`; the characters
        around them stay.

        Raises
        ------
        UsageError
            If an id is negative or does not fit 32 bits.
        """
        if any(not 0 <= token < 1 << 32 for token in ids):
            raise UsageError(f"these are no token ids: {list(ids)[:10]}")
        if self.decoded_as:
            ids = [known for token in ids if (known := self.decoded_as.get(token, token)) >= 0]
        with tokenizer_errors("the tokenizer"):
            text = str(self.model.decode(list(ids), skip_special_tokens=True))
            return text if _BROKEN not in text else decode_bytes_apart(self.model, ids, text)

    def apply_chat_template(
        self,
        messages: Sequence[Message],
        add_generation_prompt: bool = True,
        variables: Mapping[str, Any] | None = None,
        now: datetime.datetime = FIXED_DATE,
    ) -> str:
        """Write a conversation as the text that the model was trained on.

        Parameters
        ----------
        messages : sequence of mappings
            Each with `role` and `content`: text, or a list of parts. The template gets the form that it takes.
        add_generation_prompt : bool
            Whether to end where the assistant's answer begins.
        variables : Mapping, optional
            More that the template understands, such as `tools` or `enable_thinking`.
        now : datetime
            What the template's clock says: one fixed date where equal conversations must give equal texts.

        Returns
        -------
        str
            Encode it with `add_special=False`.

        Raises
        ------
        UnsupportedError
            If the model has no template, or one that drops what the user says.
        CheckpointError
            If the template fails; see `halfpint.tokenization.chat_templates.render_chat`.
        """
        if self.chat_template is None:
            raise UnsupportedError(
                "the model has no chat template, so how to talk to it is unknown; give it plain text to continue with "
                "`halfpint generate`, or put the template of its base model beside it as chat_template.jinja"
            )
        specials = self._specials()
        known = {
            **dict(specials),
            "messages": in_form(self.chat_template, specials, messages),
            "add_generation_prompt": add_generation_prompt,
            "tools": None,
            "documents": None,
        }
        return render_chat(self.chat_template, {**known, **(variables or {})}, now)

    def shows_system(self) -> bool:
        """Whether the chat template shows what a system message says."""
        if self.chat_template is None:
            return False
        specials = self._specials()
        return any(shows(self.chat_template, specials, ("system", "user"), parts=parts) for parts in (False, True))

    def _specials(self) -> Specials:
        names = {"bos": self.special.bos_id, "unk": self.special.unk_id, "pad": self.special.pad_id}
        names["eos"] = self.special.eos_ids[0] if self.special.eos_ids else None
        texts = {role: self.model.id_to_token(token) for role, token in names.items() if token is not None}
        return tuple((f"{role}_token", text) for role, text in texts.items() if text is not None)


def _without_surrogates(text: str) -> str:
    """Replace halves of surrogate pairs, which are no characters and which no tokenizer takes."""
    return text.encode("utf-8", errors="replace").decode("utf-8")
