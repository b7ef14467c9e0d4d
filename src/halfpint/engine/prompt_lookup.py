"""Guessing the next tokens from the text itself, without a second model.

What followed the last words the time before often follows again: names, quotations, code, lists. The guess goes through
the model together with the last token, in one pass over the weights; tokens are chosen from its scores as ever, so the
text does not change, whether a guess was right or wrong. (Prompt lookup decoding, A. Saxena, 2023.)
"""

from __future__ import annotations

from collections.abc import Iterable

_LENGTHS = (4, 3, 2)
"""How many last tokens must have stood together before; the longest first."""

_MOST_PAUSE = 32


class Drafter:
    """Guesses what comes next in one text.

    Parameters
    ----------
    tokens : iterable of int
        The text so far.
    most : int
        Most tokens to guess at a time; 0 guesses nothing.
    """

    __slots__ = ("_after", "_most", "_pause", "_reach", "_tokens", "_waiting")

    def __init__(self, tokens: Iterable[int], most: int) -> None:
        self._most = self._reach = most
        self._pause = self._waiting = 0
        self._tokens: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}
        if most:
            for token in tokens:
                self.add(token)

    def add(self, token: int) -> None:
        """Go on with a token."""
        if not self._most:
            return
        for length in _LENGTHS:
            if len(self._tokens) >= length:
                self._after[tuple(self._tokens[-length:])] = len(self._tokens)
        self._tokens.append(token)
        self._waiting = max(0, self._waiting - 1)

    def guess(self, room: int) -> list[int]:
        """Guess what follows: at most `room` tokens, none after guesses that were wrong, for a while."""
        if not self._most or self._waiting:
            return []
        for length in _LENGTHS:
            place = self._after.get(tuple(self._tokens[-length:]))
            if place is not None:
                followed = self._tokens[place:]  # what repeats up to the end goes on repeating
                return [followed[number % len(followed)] for number in range(min(room, self._reach))]
        return []

    def judge(self, guessed: int, right: int) -> None:
        """Learn how many of the tokens last guessed were right: guesses grow with success, and pause without."""
        if not guessed:
            return
        if right == 0:
            self._pause = min(_MOST_PAUSE, 2 * self._pause + 1)
            self._waiting = self._pause
        else:
            self._pause = 0
        self._reach = min(self._most, 2 * right + 1)
