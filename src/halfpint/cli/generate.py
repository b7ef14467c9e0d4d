"""`halfpint generate`."""

from __future__ import annotations

from pathlib import Path
from typing import Unpack

import click

from halfpint.cli import common_options as options
from halfpint.cli.input import readable, standard_input
from halfpint.cli.prefill_progress import PrefillLine
from halfpint.cli.sampling_options import Sampling, generate_options, sampling
from halfpint.pipeline.running import text_generation
from halfpint.report import json
from halfpint.report.cards import generate_line
from halfpint.report.terminal_text import printable


class _Text(Sampling):
    """What the options of this command give."""

    prompt_cache: Path | None
    as_json: bool


def show(piece: str) -> None:
    """Print a piece of a text as it comes."""
    click.echo(printable(piece), nl=False)


class Screen:
    """Prints a text as it comes, after the words that it goes on with.

    Parameters
    ----------
    words : str
        Printed with the first piece: not before it is known that the model can go on with them.
    """

    __slots__ = ("_words", "begun")

    def __init__(self, words: str) -> None:
        self._words = words
        self.begun = False

    def show(self, piece: str) -> None:
        """Print a piece."""
        show(piece if self.begun else self._words + piece)
        self.begun = True


def hide(piece: str) -> None:
    """Print nothing: the JSON object at the end has it all."""


@options.command
@click.argument("model")
@click.argument("prompt")
@sampling
@click.option(
    "--prompt-cache",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Keep what was read of the prompt in FILE, and begin with what is there of the same beginning.",
)
@options.threads
@options.as_json
def command(model: str, prompt: str, **chosen: Unpack[_Text]) -> None:
    """Continue PROMPT with MODEL. A PROMPT of - is read from standard input.

    The text goes to standard output as it comes; how fast it came goes to standard error.
    """
    how = generate_options(chosen, chosen["prompt_cache"])
    words = readable(standard_input().read() if prompt == "-" else prompt)
    screen = Screen(words)
    try:
        result = text_generation.generate(model, words, how, hide if chosen["as_json"] else screen.show, PrefillLine())
    except BaseException:
        if screen.begun:
            click.echo()
        raise
    if chosen["as_json"]:
        click.echo(json.dumps(json.generated(result)))
    else:
        click.echo()
        click.echo(click.style(generate_line(result), dim=True), err=True)
