"""`halfpint verify`."""

from __future__ import annotations

from pathlib import Path

import click

from halfpint.cli import common_options as options
from halfpint.cli.output import emit
from halfpint.pipeline import verbs
from halfpint.report import json
from halfpint.report.cards import verify_card
from halfpint.report.progress import reporting


@options.command
@click.argument("model")
@options.threads
@options.as_json
@options.progress
def command(model: str, as_json: bool, log: Path | None, events: Path | None) -> None:
    """Read everything in MODEL, anybody's checkpoint, and check that it is complete, finite and consistent.

    The exit code is 0 when it holds together, and 3 with one line about the first fault when it does not.
    """
    with reporting(log, events) as progress:
        found = verbs.verify(model, progress)
    emit(as_json, json.verified(found), verify_card(found, model))
