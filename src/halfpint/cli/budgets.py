"""Options that say how much room the result may take, and with which text and memory it is made."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypedDict, TypeVar

import click

from halfpint.cli.common_options import Number, together
from halfpint.pipeline.options import Budget, CalibrationOptions

Command = TypeVar("Command", bound=Callable[..., Any])

UNITS: Mapping[str, int] = MappingProxyType(
    {
        "B": 1,
        "kB": 10**3,
        "MB": 10**6,
        "GB": 10**9,
        "TB": 10**12,
        "KiB": 2**10,
        "MiB": 2**20,
        "GiB": 2**30,
        "TiB": 2**40,
    }
)
"""Units of sizes; upper and lower case are the same."""

_SIZE = re.compile(r"\s*([0-9]{1,40}(?:\.[0-9]{0,40})?|\.[0-9]{1,40})\s*([A-Za-z]*)\s*")


class Bytes(click.ParamType[int]):
    """A number of bytes: `3.5GB` is 3.5 x 10^9, `8GiB` is 8 x 2^30."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read the number, rounded down to whole bytes."""
        if isinstance(value, int):
            return value
        match = _SIZE.fullmatch(str(value))
        units = {unit.lower(): factor for unit, factor in UNITS.items()}
        factor = None if match is None else units.get(match[2].lower())
        if match is None or factor is None:
            self.fail(
                f"{value!r} is no size; write 3.5GB (10^9 bytes), 800MB, 8GiB (2^30 bytes) or 5000000B", param, ctx
            )
        # Decimal digits times a whole number, without the rounding of a binary fraction: 0.7GB is 700000000.
        whole, _, fraction = match[1].partition(".")
        nbytes = int(whole + fraction) * factor // 10 ** len(fraction) if whole + fraction else 0
        if nbytes < 1:
            self.fail(f"{value!r} is less than a byte", param, ctx)
        return nbytes


def budget(function: Command) -> Command:
    """`--size`, `--bpw`, `--fit` and `--context`."""
    return together(
        click.option(
            "--size", type=Bytes(), metavar="BYTES", help="The best mixture of formats in a file of 3.5GB, or 800MiB."
        ),
        click.option(
            "--bpw",
            type=Number(min=0, min_open=True),
            metavar="BITS",
            help="The best mixture with so many bits per weight of the whole file: 4.25.",
        ),
        click.option(
            "--fit",
            type=Bytes(),
            metavar="MEMORY",
            help="The best mixture that runs in a memory of 8GB: weights, keys and values of --context tokens, and "
            "what the engine of --for needs. [engine: halfpint]",
        ),
        click.option(
            "--context",
            "context_tokens",
            type=click.IntRange(min=1),
            metavar="TOKENS",
            help="With --fit: tokens of text to have room for. [default: 4096, or the model's longest]",
        ),
    )(function)


def calibration(function: Command) -> Command:
    """`--text`, `--calibration-tokens`, `--seed` and `--max-ram`: how the work is done."""
    return together(
        click.option(
            "--text",
            "texts",
            type=click.Path(path_type=Path),
            multiple=True,
            metavar="FILE",
            help="Text to calibrate on instead of the bundled one; may be repeated. The comparison is made on "
            "other, bundled text.",
        ),
        click.option(
            "--calibration-tokens",
            type=click.IntRange(min=1),
            metavar="N",
            help="About so many tokens to calibrate on. [default: by the model, 8192 to 65536]",
        ),
        click.option(
            "--seed",
            type=click.IntRange(min=0),
            default=0,
            metavar="N",
            help="Where in the text to begin; 0 is its beginning. [default: 0]",
        ),
        click.option(
            "--max-ram",
            type=Bytes(),
            metavar="BYTES",
            help="Memory that the job may take, refused before the work when it cannot do with it.",
        ),
    )(function)


class Room(TypedDict):
    """What `budget` gives to a command."""

    size: int | None
    bpw: float | None
    fit: int | None
    context_tokens: int | None


class Means(TypedDict):
    """What `calibration` gives to a command."""

    texts: tuple[Path, ...]
    calibration_tokens: int | None
    seed: int
    max_ram: int | None


def budget_options(room: Room) -> Budget:
    """Put the options of a budget into one record."""
    return Budget(
        size_bytes=room["size"] or 0,
        bits_per_weight=room["bpw"] or 0.0,
        memory_bytes=room["fit"] or 0,
        context_tokens=room["context_tokens"] or 0,
    )


def calibration_options(means: Means) -> CalibrationOptions:
    """Put the options of calibration into one record."""
    return CalibrationOptions(texts=means["texts"], tokens=means["calibration_tokens"] or 0, seed=means["seed"])
