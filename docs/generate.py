"""Write the generated parts of docs/ anew, from the tables of the code: `make docs`; `--check` only compares.

A generated part stands between `<!-- generated: NAME ARGUMENTS -->` and `<!-- end -->`; the rest of a page is prose.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import click
import numpy as np
from click.testing import CliRunner

from halfpint import families, formats
from halfpint.checkpoints import CONTAINERS
from halfpint.checkpoints.checkpoint import OutputTensor
from halfpint.cli import COMMANDS, main
from halfpint.formats.affine import Affine
from halfpint.formats.ggml import GgmlBlocks
from halfpint.formats.levels import Levels
from halfpint.kernels import machine
from halfpint.planning.presets import PRESETS
from halfpint.report.numbers import significant
from halfpint.tensors import Format

ROOT = Path(__file__).parent
HELP_COLUMNS = 92

_PART = re.compile(r"<!-- generated: (?P<call>[^>]*?) -->\n.*?<!-- end -->", re.DOTALL)
# The rows of the formats' tables: an affine format is one of a family of 252, so some stand for all.
_AFFINE_SHOWN = (
    "int2-g32",
    "int3-g64",
    "int4-g32",
    "int4-g64",
    "int4-g128",
    "int4-g128-asym",
    "int5-g128",
    "int6-g128",
)
_WINDOWS = {
    "all": "all layers",
    "alternate": "every second layer",
    "five of six": "five of six layers",
    "listed": "the layers that config.json lists",
}
_AFFINE_SHOWN = (*_AFFINE_SHOWN, "int8-g128", "int8")


def pages() -> list[Path]:
    """Every page, in a fixed order."""
    return sorted(ROOT.rglob("*.md"))


def render(page: str) -> str:
    """Give a page with its generated parts made anew."""

    def replace(match: re.Match[str]) -> str:
        name, *arguments = shlex.split(match["call"])
        return f"<!-- generated: {match['call']} -->\n{GENERATORS[name](*arguments)}\n<!-- end -->"

    return _PART.sub(replace, page)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a Markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def relative_error(fmt: Format) -> str:
    """Relative error on 16 rows of 1024 weights from a bell curve; to one digit below a per cent, else to two."""
    weight = np.random.RandomState(0).standard_normal((16, 1024)).astype(np.float32)
    decoded = formats.decode(formats.encode(weight, fmt))
    error = float(np.linalg.norm(weight.astype(np.float64) - decoded) / np.linalg.norm(weight.astype(np.float64)))
    return f"{significant(100 * error, 2 if error >= 0.01 else 1)} %"


def page_of(fmt: Format) -> str:
    """Name the page of a format, under docs/formats/."""
    if isinstance(fmt, Affine):
        return "affine"
    if isinstance(fmt, GgmlBlocks | Levels):
        return fmt.name
    return "fp8" if fmt.name.startswith("fp8") else "plain"


def all_formats() -> str:
    """Every format, with the page that tells of it; a few of the integer formats stand for all."""
    shown = [fmt for fmt in formats.FORMATS.values() if not isinstance(fmt, Affine) or fmt.name in _AFFINE_SHOWN]
    rows = [
        (
            f"[{fmt.name}]({page_of(fmt)}.md)",
            str(fmt.bits),
            f"{fmt.bits_per_weight:.5g}",
            relative_error(fmt) if fmt.bits < 16 else "rounding of the float",
        )
        for fmt in sorted(shown, key=lambda fmt: -fmt.bits_per_weight)
    ]
    return table(("format", "bits of a code", "bits per weight", "relative error on a bell curve"), rows)


def one_ggml(name: str) -> str:
    """Give the facts of a block format."""
    fmt = formats.by_name(name)
    assert isinstance(fmt, GgmlBlocks)
    return table(
        ("weights of a block", "bytes", "bits per weight", "weights that share a scale", "type number in GGUF"),
        [
            (
                str(fmt.block_columns),
                str(fmt.block_bytes),
                f"{fmt.bits_per_weight:g}",
                str(fmt.group_columns),
                str(fmt.type_id),
            )
        ],
    )


def costs(*names: str) -> str:
    """Give the cost of some formats on long rows, and their error on a bell curve."""
    rows = [
        (name, f"{formats.by_name(name).bits_per_weight:.5g}", relative_error(formats.by_name(name))) for name in names
    ]
    return table(("format", "bits per weight", "relative error on a bell curve"), rows)


def error_of(name: str) -> str:
    """Say the measured error of one format."""
    return (
        f"On weights from a bell curve the error is {relative_error(formats.by_name(name))} of their size "
        "(root mean square)."
    )


def all_families() -> str:
    """Every family."""
    rows = []
    for family in families.FAMILIES.values():
        traits = []
        roles = {row.role.value for row in family.block}
        if "router" in roles:
            traits.append("experts")
        if "query_norm" in roles:
            traits.append("query and key norms")
        if "attention_qkv" in roles:
            traits.append("fused projections")
        if family.window != "none":
            traits.append(f"sliding window in {_WINDOWS[family.window]}")
        if family.scales_embeddings:
            traits.append("scaled embeddings")
        rows.append((f"`{family.name}`", family.architecture, f"`{family.gguf_architecture}`", ", ".join(traits)))
    return table(("family (`model_type`)", "class in transformers", "architecture in GGUF", "what is special"), rows)


def presets(container: str) -> str:
    """Say what --bits means in a container."""
    rows = []
    for bits, preset in PRESETS[container].items():
        exceptions = ", ".join(f"{role}: {name}" for role, name in preset.exceptions) or "-"
        rows.append((f"`--bits {bits}`", preset.linear, preset.embedding or "kept as it is", exceptions))
    return table(("asked for", "linear layers", "embedding and head", "exceptions"), rows)


def held_by(container: str) -> str:
    """Name the formats that a container holds, found by asking it."""
    from_table = CONTAINERS[container]
    held = []
    for fmt in formats.FORMATS.values():
        if isinstance(fmt, Affine) and fmt.name not in _AFFINE_SHOWN:
            continue
        output = OutputTensor("model.layers.0.mlp.up_proj.weight", (256, 1024), fmt, "F32")
        if from_table.refusal(output) is None:
            held.append(f"[{fmt.name}](../formats/{page_of(fmt)}.md)")
    return ", ".join(held)


def command_help(name: str) -> str:
    """Print the help of one command as the command line does."""
    context = click.Context(main, info_name="halfpint", terminal_width=HELP_COLUMNS, **main.context_settings)
    command = main.get_command(context, name)
    assert command is not None
    inner = click.Context(command, info_name=name, parent=context, **command.context_settings)
    return f"```text\n{command.get_help(inner)}\n```"


def all_commands() -> str:
    """Every command and its line."""
    return table(("command", "does"), [(f"[`{name}`](#{name})", entry.help) for name, entry in COMMANDS.items()])


def output(*arguments: str) -> str:
    """Run a command that is quick and prints the same everywhere, and give what it prints.

    Forecasts of time depend on the number of threads: two, whatever this machine has.
    """
    before = machine.thread_count()
    machine.set_thread_count(2)
    try:
        result = CliRunner().invoke(main, arguments)
    finally:
        machine.set_thread_count(before)
    assert result.exit_code == 0, result.output
    lines = [line.rstrip() for line in result.stdout.strip("\n").splitlines()]
    return "\n".join(["```text", f"$ halfpint {shlex.join(arguments)}", "", *lines, "```"])


GENERATORS: Mapping[str, Callable[..., str]] = {
    "commands": all_commands,
    "help": command_help,
    "formats": all_formats,
    "ggml": one_ggml,
    "costs": costs,
    "error": error_of,
    "families": all_families,
    "presets": presets,
    "holds": held_by,
    "output": output,
}


def run(check: bool) -> int:
    """Write pages that are not current, or only count them."""
    stale = 0
    for path in pages():
        page = path.read_text(encoding="utf-8")
        fresh = render(page)
        if fresh != page:
            stale += 1
            if not check:
                path.write_text(fresh, encoding="utf-8")
            sys.stderr.write(f"{path.relative_to(ROOT)} {'is not current' if check else 'written'}\n")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(run("--check" in sys.argv[1:]))
