"""`halfpint bench`."""

from __future__ import annotations

from pathlib import Path
from typing import TypedDict, Unpack

import click

from halfpint.cli import common_options as options
from halfpint.cli.output import emit
from halfpint.pipeline import verbs
from halfpint.pipeline.options import BenchOptions
from halfpint.report import json
from halfpint.report.progress import reporting
from halfpint.report.speed import bench_card

_MOST_TOKENS, _MOST_TEXTS = 1 << 20, 1024


class _Trial(TypedDict):
    """What the options of this command give."""

    prompts: tuple[int, ...]
    tokens: int
    repeats: int
    batch: int
    seed: int
    as_json: bool
    log: Path | None
    events: Path | None


@options.command
@click.argument("model")
@click.option(
    "--prompt",
    "prompts",
    type=click.IntRange(1, _MOST_TOKENS),
    multiple=True,
    metavar="N",
    help="Tokens of the prompt; may be repeated. [default: 128 and 512]",
)
@click.option(
    "--tokens",
    type=click.IntRange(1, _MOST_TOKENS),
    default=128,
    show_default=True,
    metavar="N",
    help="Tokens to write after each prompt.",
)
@click.option(
    "--repeats", type=click.IntRange(1, 1000), default=3, show_default=True, metavar="N", help="How often each is done."
)
@click.option(
    "--batch",
    type=click.IntRange(1, _MOST_TEXTS),
    default=1,
    show_default=True,
    metavar="N",
    help="Texts to read and continue together; their tokens count together.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**63 - 1),
    default=0,
    show_default=True,
    metavar="N",
    help="Of the prompts' tokens.",
)
@options.threads
@options.as_json
@options.progress
def command(model: str, **chosen: Unpack[_Trial]) -> None:
    """How fast MODEL reads a prompt and writes on from it, and how near that is to what this machine can do.

    Prompts are random tokens, so MODEL needs no tokenizer. What memory and arithmetic give is measured right before
    and after each sample, with the same threads.
    """
    wanted = BenchOptions(
        prompts=chosen["prompts"],
        tokens=chosen["tokens"],
        repeats=chosen["repeats"],
        batch=chosen["batch"],
        seed=chosen["seed"],
    )
    with reporting(chosen["log"], chosen["events"]) as progress:
        found = verbs.bench(model, wanted, progress)
    emit(chosen["as_json"], json.benched(found), bench_card(found, model))
