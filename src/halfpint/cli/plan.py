"""`halfpint plan`."""

from __future__ import annotations

from typing import Unpack

import click

from halfpint.cli import options
from halfpint.cli.output import emit
from halfpint.pipeline import verbs
from halfpint.report import json
from halfpint.report.planning import plan_card


@options.command
@click.argument("model")
@options.what
@click.option("--all", "every_tensor", is_flag=True, help="List every tensor, not one line for equal ones.")
@options.as_json
def command(model: str, every_tensor: bool, as_json: bool, **what: Unpack[options.What]) -> None:
    """Which tensor of MODEL would get which format, and who could load the result.

    Headers alone are read, and nothing is written. The size is exact; time and memory are forecasts.
    """
    planned = verbs.plan(model, options.plan_options(what))
    emit(as_json, json.plan(planned), plan_card(planned, model, every_tensor))
