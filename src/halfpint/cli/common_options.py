"""Options that several commands share: the same names, the same words, the same meaning everywhere."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from halfpint.checkpoints import CONTAINERS
from halfpint.cli import output_conflicts
from halfpint.cli.group import TRACEBACK
from halfpint.errors import UsageError
from halfpint.formats import FORMATS
from halfpint.kernels import machine
from halfpint.pipeline.options import MeasureOptions
from halfpint.planning.engines import ENGINES, FOLDER_ENGINES

Command = TypeVar("Command", bound=Callable[..., Any])


def _remember_traceback(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    context.meta[TRACEBACK] = value


def _use_threads(_context: click.Context, _parameter: click.Parameter, value: int | None) -> None:
    if value is not None:
        machine.set_thread_count(value)


class Number(click.FloatRange):
    """A finite number within bounds: NaN passes every comparison with a bound, and infinity an open one."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read the number."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value!r} is no finite number", param, ctx)
        return number


class Bits(click.IntRange):
    """A whole number of bits."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read the number; a broken one is told what gives sizes in between."""
        try:
            return int(super().convert(value, param, ctx))
        except click.BadParameter:
            self.fail(
                f"{value!r} is no whole number from {self.min} to {self.max}; for a size in between name formats with "
                "--format and --rule",
                param,
                ctx,
            )


def fraction(_context: click.Context, _parameter: click.Parameter, value: str | None) -> float | None:
    """Read a part of a whole, `97%` or `0.97`, as a number between 0 and 1."""
    if value is None:
        return None
    words = value.strip()
    try:
        number = float(words.removesuffix("%")) / (100 if words.endswith("%") else 1)
    except ValueError:
        raise click.BadParameter(f"{value!r} is no fraction; write 97% or 0.97") from None
    if not 0 <= number <= 1:
        raise click.BadParameter(f"{value!r} is not between 0% and 100%; write 97% or 0.97")
    return number


def complete_format(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """Names of formats that begin so, for the shell."""
    return [name for name in FORMATS if name.startswith(incomplete.lower())]


def command(function: Command) -> click.Command:
    """Make a command of a function; every command knows --traceback, listed last."""
    made = click.command(cls=output_conflicts.Command, context_settings={"help_option_names": ["-h", "--help"]})(
        function
    )
    made.params.append(
        click.Option(
            ["--traceback"],
            is_flag=True,
            expose_value=False,
            is_eager=True,
            callback=_remember_traceback,
            help="When something goes wrong, also print where.",
        )
    )
    return made


def together(*options: Callable[[Any], Any]) -> Callable[[Command], Command]:
    """One decorator of several options, listed by --help in this order."""

    def decorate(function: Command) -> Command:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def as_json(function: Command) -> Command:
    """`--json`."""
    return click.option(
        "--json", "as_json", is_flag=True, help="Print one JSON object on standard output, and nothing else there."
    )(function)


def threads(function: Command) -> Command:
    """`--threads N`, put into effect before the command runs."""
    return click.option(
        "--threads",
        type=click.IntRange(1, machine.MOST_THREADS),
        expose_value=False,
        callback=_use_threads,
        metavar="N",
        help="Threads of the native kernels; the result is the same with any number. [default: all processors]",
    )(function)


def progress(function: Command) -> Command:
    """`--log FILE` and `--events FILE`."""
    return together(
        click.option("--log", type=click.Path(path_type=Path), metavar="FILE", help="Write one line per tensor there."),
        click.option(
            "--events", type=click.Path(path_type=Path), metavar="FILE", help="Write progress there as JSON lines."
        ),
    )(function)


def texts(function: Command) -> Command:
    """`--text FILE` and `--tokens N`."""
    return together(
        click.option(
            "--text",
            "texts",
            type=click.Path(path_type=Path),
            multiple=True,
            metavar="FILE",
            help="Text to compare on instead of the bundled one; may be repeated.",
        ),
        tokens,
    )(function)


def tokens(function: Command) -> Command:
    """`--tokens N`."""
    return click.option(
        "--tokens",
        type=click.IntRange(min=1),
        metavar="N",
        help="About so many tokens (whole windows) to compare on. [default: by the model's size, for minutes of work]",
    )(function)


def what(function: Command) -> Command:
    """What the output should be: bits, formats, container, engine."""
    return together(
        click.option(
            "--bits", type=Bits(2, 8), metavar="2..8", help="A good mixture of formats of about so many bits."
        ),
        click.option(
            "--format",
            "format_name",
            metavar="NAME",
            shell_complete=complete_format,
            help="One format for all linear layers: q4_k, q6_k, iq4_xs, q8_0, int4-g128, int8, fp8 ...",
        ),
        click.option(
            "--rule",
            "rules",
            multiple=True,
            metavar="PATTERN=FORMAT",
            help="Give the tensors whose names match this format, as in '*down_proj*=q6_k'; may be repeated, "
            "and the last that matches decides. A pattern may be a regular expression after 're:'; the format "
            "`drop` leaves tensors out.",
        ),
        click.option(
            "--to",
            "container",
            type=click.Choice([name for name in CONTAINERS if name != "huggingface"]),
            help="What to write. [default: gguf; compressed-tensors with --for vllm or transformers]",
        ),
        click.option(
            "--for",
            "engine",
            type=click.Choice([engine.name for engine in ENGINES]),
            metavar="ENGINE",
            help="The engine that must be able to load the result, checked before the work: "
            f"{', '.join(engine.name for engine in ENGINES)}.",
        ),
        click.option(
            "--calibrate/--no-calibrate",
            "calibrate",
            default=None,
            help="Solve linear layers with error feedback, on the bundled calibration text or that of --text. "
            "[default: where it takes minutes, which is up to 400 million parameters]",
        ),
    )(function)


def gate(function: Command) -> Command:
    """`--keep` and `--max-kl`: what a PASS needs."""
    return together(
        click.option(
            "--keep",
            callback=fraction,
            metavar="97%",
            help="PASS only with this top-1 agreement with the original, else exit with 1. Without a size, --bits, "
            "--format or --plan: the smallest file that keeps it.",
        ),
        click.option(
            "--max-kl",
            type=Number(min=0),
            metavar="X",
            help="PASS only up to this mean KL divergence in nats, else exit with 1. Without a size, --bits, --format "
            "or --plan: the smallest file that keeps it.",
        ),
    )(function)


def container_for(container: str | None, output: str | None, engine: str | None) -> str:
    """What to write when --to does not say: by the output's name, then by the engine, else GGUF.

    Raises
    ------
    UsageError
        If the output is named `.gguf` and --to says something else, or the engine reads folders; if it is named as a
        safetensors file, or as a folder where a file would be written.
    """
    if output is not None and output.lower().endswith(".safetensors"):
        raise UsageError(
            f"{output} is named as one safetensors file, which no container is; name a .gguf file, or a folder with "
            "--to compressed-tensors"
        )
    named_gguf = output is not None and output.lower().endswith(".gguf")
    if named_gguf and container is None and engine in FOLDER_ENGINES:
        raise UsageError(
            f"{output} is named as a GGUF file, and {engine} reads folders; name a folder, which "
            "--to compressed-tensors writes"
        )
    if container is not None:
        if named_gguf and container != "gguf":
            raise UsageError(f"{output} is named as a GGUF file, but --to asks for {container}; rename one of them")
        return _file_for(output) if container == "gguf" else container
    if named_gguf or engine not in FOLDER_ENGINES:
        return _file_for(output)
    return "compressed-tensors"


def _file_for(output: str | None) -> str:
    if output is not None and output.endswith("/"):
        raise UsageError(
            f"{output} is named as a folder, and GGUF is a file; drop the /, or ask for a folder with --to"
        )
    return "gguf"


def measure_options(texts: tuple[Path, ...], tokens: int | None) -> MeasureOptions:
    """Put what `texts` gave into one record."""
    return MeasureOptions(texts=texts, tokens=tokens or 0)
