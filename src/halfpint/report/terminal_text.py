"""Text from files made safe for a terminal: control characters are escaped."""

from __future__ import annotations


def printable(words: str) -> str:
    r"""Escape control characters, so that text from a file cannot send commands to the terminal.

    Line ends and tabs stay; every other character that `str.isprintable` rejects becomes an escape such as `\x1b`.
    """
    if words.isprintable():
        return words
    return "".join(
        character
        if character.isprintable() or character in "\n\t"
        else character.encode("unicode_escape", "surrogatepass").decode("ascii")
        for character in words
    )


def one_line(words: str) -> str:
    """Escape control characters and fold white space into single blanks."""
    return printable(" ".join(words.split()))
