"""`halfpint quantize`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Unpack

import click

from halfpint.cli import budgets
from halfpint.cli import common_options as options
from halfpint.cli.output import check_place, emit, save
from halfpint.cli.quantize_arguments import Wanted, quantize_options
from halfpint.pipeline import verbs
from halfpint.report import json
from halfpint.report.losses import loss_map
from halfpint.report.planning import plan_card, quantize_card
from halfpint.report.progress import reporting

GATE_FAILED = 1


class _Job(Wanted):
    """What the options of this command give."""

    dry_run: bool
    resume: bool
    as_json: bool
    log: Path | None
    events: Path | None


@options.command
@click.argument("model")
@click.argument("output", metavar="OUT")
@budgets.budget
@options.what
@click.option(
    "--plan",
    "plan_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Do what this plan says, made by `halfpint plan --save` and edited as you like.",
)
@options.gate
@budgets.calibration
@options.tokens
@click.option("--no-measure", is_flag=True, help="Skip the comparison with the original at the end.")
@click.option(
    "--map",
    "map_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write there, as JSON, where the bytes went and where the damage comes from: every tensor and block, its "
    "error after each step, and its part of the KL divergence.",
)
@click.option("--dry-run", is_flag=True, help="Print the plan and write nothing.")
@click.option(
    "--resume/--fresh",
    default=True,
    help="Go on with what an earlier run of the same command left unfinished, or remove that and start again. "
    "[default: resume]",
)
@options.threads
@options.as_json
@options.progress
@click.pass_context
def command(context: click.Context, model: str, output: str, **job: Unpack[_Job]) -> None:
    """Make a smaller checkpoint OUT of MODEL, read it back, and compare it with the original.

    OUT is a file for GGUF and a folder otherwise. It must not exist, and appears only when it is whole. MODEL is
    never changed. A run that is stopped, or finds the disk full, keeps what it has done beside OUT, and the same
    command goes on from there. The exit code is 1 when --keep or --max-kl was not met; OUT is there all the same.
    """
    wanted = replace(quantize_options(output, job), fresh=not job["resume"])
    check_place(job["map_file"])
    if job["dry_run"]:
        with reporting(job["log"], job["events"]) as progress:
            planned = verbs.plan(model, wanted, progress)
        emit(job["as_json"], json.plan(planned), plan_card(planned, model))
        return
    with reporting(job["log"], job["events"]) as progress:
        result = verbs.quantize(model, output, wanted, progress)
    emit(job["as_json"], json.quantized(result), quantize_card(result, model))
    if job["map_file"] is not None:
        save(job["map_file"], json.dumps(loss_map(result)))
    if result.verdict == "FAIL":
        context.exit(GATE_FAILED)
