"""Showing a person how far a long prompt has been read."""

from __future__ import annotations

import sys
import time

import click

_PATIENCE_SECONDS = 2.0


class PrefillLine:
    """A line on standard error that goes away when the prompt is read; nothing where that is no terminal.

    Call it with the tokens read so far, and with all of them.
    """

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._shown = ""

    def __call__(self, done: int, total: int) -> None:
        """Show how far the prompt was read, if that takes long enough to wonder."""
        seconds = time.monotonic() - self._began
        if (done < total and seconds < _PATIENCE_SECONDS) or not sys.stderr.isatty():
            return
        left = seconds / done * (total - done)
        line = f"{done} of {total} tokens read, {left:.0f} s left" if done < total else ""
        click.echo("\r" + line.ljust(len(self._shown)) + "\r" * (not line), nl=False, err=True)
        self._shown = line
