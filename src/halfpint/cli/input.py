"""Reading what the user types or pipes in."""

from __future__ import annotations

import sys
from typing import TextIO

import click


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
    return stream
