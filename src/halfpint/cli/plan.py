"""`halfpint plan`."""

from __future__ import annotations

from pathlib import Path
from typing import Unpack

import click

from halfpint.cli import budgets
from halfpint.cli import common_options as options
from halfpint.cli.output import check_place, emit
from halfpint.cli.quantize_arguments import Planned, plan_options
from halfpint.pipeline import verbs
from halfpint.report import json
from halfpint.report.planning import plan_card
from halfpint.report.progress import reporting


class _Chosen(Planned):
    """What the options of this command give."""

    save: Path | None
    every_tensor: bool
    as_json: bool
    log: Path | None
    events: Path | None


@options.command
@click.argument("model")
@budgets.budget
@options.what
@budgets.calibration
@click.option(
    "-o",
    "--save",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the plan there as TOML, for you to edit and `quantize --plan`; an older one is replaced.",
)
@click.option("--all", "every_tensor", is_flag=True, help="List every tensor, not one line for equal ones.")
@options.threads
@options.as_json
@options.progress
def command(model: str, **chosen: Unpack[_Chosen]) -> None:
    """Which tensor of MODEL would get which format, and who could load the result.

    Nothing but the plan is written. The size is exact; time, memory and quality are forecasts. With --bits, --format
    or rules headers alone are read; a budget (--size, --bpw, --fit) is spent where the model is most sensitive, which
    is measured first, unless --no-calibrate.
    """
    check_place(chosen["save"])
    with reporting(chosen["log"], chosen["events"]) as progress:
        planned = verbs.plan(model, plan_options(chosen), progress)
        if chosen["save"] is not None:
            verbs.save_plan(model, planned, chosen["save"])
    emit(chosen["as_json"], json.plan(planned), plan_card(planned, model, chosen["every_tensor"]))
