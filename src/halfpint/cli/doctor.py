"""`halfpint doctor`."""

from __future__ import annotations

from halfpint.cli import common_options as options
from halfpint.cli.output import emit
from halfpint.pipeline import verbs
from halfpint.report import json
from halfpint.report.cards import doctor_card


@options.command
@options.as_json
@options.threads
def command(as_json: bool) -> None:
    """Look at this machine: processor and its features, kernels and which one is used, memory, what is installed."""
    found = verbs.doctor()
    emit(as_json, json.doctor(found), doctor_card(found))
