"""`halfpint chat`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import TextIO, Unpack

import click

from halfpint.cli import common_options as options
from halfpint.cli.generate import show
from halfpint.cli.input import readable, standard_input
from halfpint.cli.prefill_progress import PrefillLine
from halfpint.cli.sampling_options import Sampling, generate_options, sampling
from halfpint.errors import RoomError
from halfpint.pipeline.running import text_generation
from halfpint.report.cards import generate_line

_HELP = (
    "Write a message and press Enter. Ctrl-C stops an answer, /reset forgets the conversation, /quit or Ctrl-D ends it."
)


@options.command
@click.argument("model")
@sampling
@options.threads
def command(model: str, **chosen: Unpack[Sampling]) -> None:
    """Talk to MODEL, in its own chat template.

    Reads a message per line from standard input, so that a file or a pipe works too.
    """
    typed = standard_input()
    with closing(text_generation.Chat(model, generate_options(chosen))) as conversation:
        click.echo(click.style(_HELP, dim=True), err=True)
        for message in _messages(typed):
            if message == "/reset":
                conversation.reset()
                continue
            click.echo(click.style(_answer(conversation, message, typed.isatty()), dim=True), err=True)


def _answer(conversation: text_generation.Chat, message: str, interactive: bool) -> str:
    """Show the answer to a message as it comes; give the line to say after it.

    Ctrl-C stops the answer only where somebody can type another message; it ends a chat that reads a file.
    """
    try:
        result = conversation.reply(message, show, PrefillLine())
    except RoomError as error:
        return f"{error}; /reset forgets the conversation and makes room"
    except KeyboardInterrupt:
        if not interactive:
            raise
        click.echo()
        return "stopped; that message and its answer are forgotten"
    click.echo()
    return generate_line(result)


def _messages(typed: TextIO) -> Iterator[str]:
    """What the user says, until the end of the input or /quit; empty lines are passed over."""
    interactive = typed.isatty()
    while True:
        if interactive:
            click.echo(click.style("you> ", bold=True), nl=False)
        line = typed.readline()
        message = readable(line.strip())
        if message == "/quit":
            return
        if not line:
            if interactive:
                click.echo()
            return
        if message:
            yield message
