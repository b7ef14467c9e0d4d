"""Reading what the user types or pipes in."""

from __future__ import annotations

import io
import sys
from typing import TextIO

import click

_UTF_16 = ("\udcff\udcfe", "\udcfe\udcff")
"""The byte order marks of UTF-16, as Python smuggles in bytes that are no UTF-8."""


def standard_input() -> TextIO:
    """Standard input.

    Raises
    ------
    click.UsageError
        If the process was started without one, as `<&-` does.
    """
    # The type of sys.stdin leaves out that it is None when it was closed at the start.
    stream: TextIO | None = sys.stdin
    if stream is None:
        raise click.UsageError("standard input is closed; give the text in a pipe or a file, or < /dev/null for none")
    if isinstance(stream, io.TextIOWrapper):
        # `readable` tells of bytes that are no text, in any locale.
        stream.reconfigure(errors="surrogateescape")
    return stream


def readable(text: str) -> str:
    """Give a text back that can be written as UTF-8, without a byte order mark before it.

    Raises
    ------
    click.UsageError
        If it came from bytes that are no UTF-8, which Python smuggles in as lone surrogates.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        if text.startswith(_UTF_16):
            raise click.UsageError("the text is UTF-16; convert it to UTF-8 first") from error
        raise click.UsageError(
            f"the text is not UTF-8: after {error.start} characters comes the byte 0x{ord(text[error.start]) & 255:02x}"
        ) from error
    return text.removeprefix("\ufeff")
