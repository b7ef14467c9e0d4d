"""`halfpint inspect`."""

from __future__ import annotations

import click

from halfpint.cli import common_options as options
from halfpint.cli.output import console, emit
from halfpint.pipeline import verbs
from halfpint.report import json
from halfpint.report.inspecting import model_card, tensor_card


@options.command
@click.argument("model")
@click.argument("tensor", required=False)
@click.option(
    "--format",
    "formats",
    multiple=True,
    metavar="NAME",
    shell_complete=options.complete_format,
    help="With TENSOR: a format to try on it; may be repeated. [default: one of 8 and one of 4 bits]",
)
@click.option("--all", "every_tensor", is_flag=True, help="List every tensor, not one line for equal ones.")
@options.as_json
@options.threads
def command(model: str, tensor: str | None, formats: tuple[str, ...], every_tensor: bool, as_json: bool) -> None:
    """What MODEL is, what it weighs, what it would weigh; or what the numbers of one TENSOR look like.

    Without TENSOR only headers are read. With it: range, step, histogram, and what rounding does to it.
    """
    if tensor is None:
        if formats:
            raise click.UsageError("--format needs a TENSOR to try it on")
        found = verbs.inspect(model)
        emit(as_json, json.inspection(found), model_card(found, model, every_tensor))
    else:
        view = verbs.inspect_tensor(model, tensor, formats)
        emit(as_json, json.tensor_view(view), tensor_card(view, console().width))
