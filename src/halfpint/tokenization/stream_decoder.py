"""Text that comes token by token and, put together, is the text of all tokens."""

from __future__ import annotations

from collections.abc import Sequence

from halfpint.tokenization.tokenizer import Tokenizer

_CONTEXT = 8
"""Tokens kept before what is new: enough for a character and the space before a word."""

_BROKEN = "\ufffd"


class StreamDecoder:
    """Text that comes token by token.

    Tokens are parts of characters and depend on what stands before them (a leading space), so that the text of each
    alone is not the text of all. Further tokens can change the last character of a text at most, and only where that
    is U+FFFD, which may stand for the beginning of a character: all before it is given at once.

    Parameters
    ----------
    tokenizer : Tokenizer
    context : sequence of int
        Tokens that stand before; their text is not given.
    """

    __slots__ = ("_given", "_ids", "_longest", "_tokenizer")

    def __init__(self, tokenizer: Tokenizer, context: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._ids = list(context)[-4 * _CONTEXT :]
        self._longest = 4 * _CONTEXT
        self._given = tokenizer.decode(self._ids)

    def step(self, token: int) -> str:
        """Take one more token and give the text that it settles; empty while a character is incomplete."""
        self._ids.append(token)
        return self._settle(whole=False)

    def finish(self) -> str:
        """Give what is left: an incomplete character as U+FFFD."""
        return self._settle(whole=True)

    def _settle(self, *, whole: bool) -> str:
        now = self._tokenizer.decode(self._ids)
        settled = now if whole else now.removesuffix(_BROKEN)
        # A context that ends inside a character has that as its last U+FFFD until the rest of it comes.
        known = self._given if now.startswith(self._given) else self._given.removesuffix(_BROKEN)
        text = settled[len(known) :]
        if text:
            self._given = settled
        if len(self._ids) > self._longest:
            self._shorten(now)
        return text

    def _shorten(self, now: str) -> None:
        """Forget all but the last tokens, where no character that can still change begins among the forgotten."""
        before = self._tokenizer.decode(self._ids[:-_CONTEXT])
        kept = self._tokenizer.decode(self._ids[-_CONTEXT:])
        if not kept or not now.startswith(before) or len(now) == len(before):
            self._longest *= 2  # as in a run of special tokens, which have no text
            return
        self._ids = self._ids[-_CONTEXT:]
        self._longest = 4 * _CONTEXT
        pending = len(now) - len(self._given)
        self._given = kept[: len(kept) - pending] if pending > 0 else kept
