"""`halfpint measure`."""

from __future__ import annotations

from pathlib import Path
from typing import TypedDict, Unpack

import click

from halfpint.cli import common_options as options
from halfpint.cli.output import emit
from halfpint.pipeline import verbs
from halfpint.report import json
from halfpint.report.progress import reporting
from halfpint.report.quality import measure_card, measure_markdown


class _Comparison(TypedDict):
    """What the options of this command give."""

    texts: tuple[Path, ...]
    tokens: int | None
    markdown: bool
    as_json: bool
    log: Path | None
    events: Path | None


@options.command
@click.argument("model")
@click.option("--against", required=True, metavar="ORIGINAL", help="The model that MODEL was made of.")
@options.texts
@click.option("--markdown", is_flag=True, help="Print the card as Markdown, for a README.")
@options.threads
@options.as_json
@options.progress
def command(model: str, against: str, **chosen: Unpack[_Comparison]) -> None:
    """Compare MODEL with its original on held-out text.

    KL divergence, top-1 agreement and perplexity, each with one standard error.
    """
    if chosen["markdown"] and chosen["as_json"]:
        raise click.UsageError("give either --json or --markdown, not both")
    with reporting(chosen["log"], chosen["events"]) as progress:
        found = verbs.measure(model, against, options.measure_options(chosen["texts"], chosen["tokens"]), progress)
    if chosen["markdown"]:
        click.echo(measure_markdown(found, model, against))
    else:
        emit(chosen["as_json"], json.measurement(found), measure_card(found, model, against))
