"""What the options of `plan` and `quantize` ask for, as one record."""

from __future__ import annotations

from pathlib import Path
from typing import TypedDict

from halfpint.cli import budgets
from halfpint.cli.common_options import container_for, measure_options
from halfpint.errors import UsageError
from halfpint.pipeline.options import CalibrationOptions, Gate, QuantizeOptions


class What(TypedDict):
    """What `options.what` gives to a command."""

    bits: int | None
    format_name: str | None
    rules: tuple[str, ...]
    container: str | None
    engine: str | None
    calibrate: bool | None


class Planned(What, budgets.Room, budgets.Means):
    """The same, with a budget and the means."""


class Wanted(Planned):
    """What all options of `quantize` that make its answer give to a command."""

    plan_file: Path | None
    keep: float | None
    max_kl: float | None
    tokens: int | None
    no_measure: bool
    map_file: Path | None


def plan_options(what: Planned) -> QuantizeOptions:
    """Put the options of `plan` into one record; there is nothing to compare."""
    return QuantizeOptions(
        bits=what["bits"],
        format=what["format_name"],
        rules=what["rules"],
        container=container_for(what["container"], None, what["engine"]),
        engine=what["engine"] or "",
        calibrate=what["calibrate"],
        measure=None,
        budget=budgets.budget_options(what),
        calibration=_calibration(what),
        max_memory_bytes=what["max_ram"] or 0,
    )


def quantize_options(output: str, wanted: Wanted) -> QuantizeOptions:
    """Put the options of `quantize` into one record."""
    keep, max_kl = wanted["keep"], wanted["max_kl"]
    return QuantizeOptions(
        bits=wanted["bits"],
        format=wanted["format_name"],
        rules=wanted["rules"],
        container=container_for(wanted["container"], output, wanted["engine"]),
        engine=wanted["engine"] or "",
        calibrate=wanted["calibrate"],
        gate=Gate(keep=0.0 if keep is None else keep, max_kl=float("inf") if max_kl is None else max_kl),
        measure=None if wanted["no_measure"] else measure_options((), wanted["tokens"]),
        budget=budgets.budget_options(wanted),
        plan_file=wanted["plan_file"],
        calibration=_calibration(wanted),
        max_memory_bytes=wanted["max_ram"] or 0,
        explains=wanted["map_file"] is not None and wanted["calibrate"] is not False,
    )


def _calibration(what: Planned) -> CalibrationOptions:
    """Which text is read; none of it would be without calibration."""
    found = budgets.calibration_options(what)
    if what["calibrate"] is False and found != CalibrationOptions():
        raise UsageError(
            "--text, --calibration-tokens and --seed are for calibration, which --no-calibrate leaves out; "
            "give one or the other"
        )
    return found
