"""What a file says is shown, and never obeyed: text made safe for a terminal."""

from __future__ import annotations


def printable(words: str) -> str:
    r"""Make control characters visible, so that a name or a message from a file cannot drive the terminal.

    Line ends and tabs stay; everything else that Python does not call printable becomes an escape such as `\x1b`.
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
    """The same, with line ends and runs of blanks folded into single blanks."""
    return printable(" ".join(words.split()))
