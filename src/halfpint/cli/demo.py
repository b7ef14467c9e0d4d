"""`halfpint demo`."""

from __future__ import annotations

from pathlib import Path

from halfpint.cli import common_options as options
from halfpint.cli.output import emit
from halfpint.pipeline import verbs
from halfpint.report import json
from halfpint.report.cards import demo_card
from halfpint.report.progress import reporting


@options.command
@options.as_json
@options.threads
@options.progress
def command(as_json: bool, log: Path | None, events: Path | None) -> None:
    """The whole story on the small model inside halfpint: sizes, quality, speed, text.

    Nothing is downloaded, and nothing is left on the disk.
    """
    with reporting(log, events) as progress:
        result = verbs.demo(progress)
    emit(as_json, json.demo(result), demo_card(result))
