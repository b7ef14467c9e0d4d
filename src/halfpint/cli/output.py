"""One result on standard output: a card for people, or one JSON object for machines."""

from __future__ import annotations

import errno
from pathlib import Path

import click
from rich.console import Console, RenderableType

from halfpint.errors import RoomError, UsageError
from halfpint.report import json
from halfpint.report.layout import NARROWEST, WIDEST


def console() -> Console:
    """Standard output as it is now; no wider than a card, and that wide when it is a file or a pipe.

    In a terminal that is too narrow for a table its lines go on below: no figure is cut off.
    """
    made = Console(highlight=False, soft_wrap=False)
    made.width = min(max(made.width, NARROWEST), WIDEST) if made.is_terminal else WIDEST
    return made


def check_place(path: Path | None) -> None:
    """Refuse a file that could not be written at the end, before the work.

    Raises
    ------
    UsageError
        If its folder does not exist, or it is a folder itself.
    """
    if path is not None and (path.is_dir() or not path.parent.is_dir()):
        raise UsageError(f"{path} cannot be written: name a file in a folder that exists")


def save(path: Path, text: str) -> None:
    """Write a text file, over an older one.

    Raises
    ------
    RoomError
        If the disk is full.
    UsageError
        If it cannot be written for another reason.
    """
    try:
        path.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise RoomError(f"{path} cannot be written: the disk is full") from error
        raise UsageError(f"{path} cannot be written: {error}") from error


def emit(as_json: bool, machine: json.Object, card: RenderableType) -> None:
    """Print one result for whoever reads it."""
    if as_json:
        click.echo(json.dumps(machine))
        return
    screen = console()
    if screen.is_terminal:
        screen.print(card)
        return
    with screen.capture() as capture:
        screen.print(card)
    # Tables are padded to their width, which nobody wants in a file.
    click.echo("\n".join(line.rstrip() for line in capture.get().strip("\n").split("\n")))
