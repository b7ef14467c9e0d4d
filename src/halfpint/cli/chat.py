"""`halfpint chat`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import closing
from typing import Unpack

import click

from halfpint.cli import options
from halfpint.cli.generate import show
from halfpint.cli.sampling import Sampling, generate_options, sampling
from halfpint.pipeline import verbs
from halfpint.report.stories import generate_line

_HELP = "Write a message and press Enter. /reset forgets the conversation, /quit or Ctrl-D ends it."


@options.command
@click.argument("model")
@sampling
@options.threads
def command(model: str, **chosen: Unpack[Sampling]) -> None:
    """Talk to MODEL, in its own chat template.

    Reads a message per line from standard input, so that a file or a pipe works too.
    """
    with closing(verbs.Chat(model, generate_options(chosen))) as conversation:
        click.echo(click.style(_HELP, dim=True), err=True)
        for message in _messages():
            if message == "/reset":
                conversation.reset()
                continue
            result = conversation.reply(message, show)
            click.echo()
            click.echo(click.style(generate_line(result), dim=True), err=True)


def _messages() -> Iterator[str]:
    """What the user says, until the end of the input or /quit; empty lines are passed over."""
    interactive = sys.stdin.isatty()
    while True:
        if interactive:
            click.echo(click.style("you> ", bold=True), nl=False)
        line = sys.stdin.readline()
        message = line.strip()
        if message == "/quit":
            return
        if not line:
            if interactive:
                click.echo()
            return
        if message:
            yield message
