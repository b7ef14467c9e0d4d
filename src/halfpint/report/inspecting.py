"""What is inside a model, and what one tensor's numbers look like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.text import Text

from halfpint.pipeline.looking.inspection import Inspection, TensorView
from halfpint.report.grouping import group
from halfpint.report.layout import bar, card, facts, heading, margin, remark, table, text
from halfpint.report.numbers import count, percent, significant, size
from halfpint.tensors import TensorSpec


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine that many people have: its memory, and how much of it something else needs."""

    name: str
    memory_bytes: float
    reserved_bytes: float

    def holds(self, nbytes: float) -> bool:
        """Whether weights fit, with a tenth more for the context and the work at hand."""
        return 1.1 * nbytes + self.reserved_bytes <= self.memory_bytes


COMPUTERS = (
    Machine("4 GB single-board computer", 4e9, 1e9),
    Machine("8 GB laptop", 8e9, 2.5e9),
    Machine("16 GB laptop", 16e9, 3e9),
    Machine("32 GB computer", 32e9, 4e9),
    Machine("64 GB workstation", 64e9, 4e9),
    Machine("128 GB workstation", 128e9, 6e9),
    Machine("512 GB server", 512e9, 12e9),
)
GPUS = (
    Machine("8 GB GPU", 8e9, 0.5e9),
    Machine("12 GB GPU", 12e9, 0.5e9),
    Machine("16 GB GPU", 16e9, 0.5e9),
    Machine("24 GB GPU", 24e9, 0.7e9),
    Machine("48 GB GPU", 48e9, 1e9),
    Machine("80 GB GPU", 80e9, 2e9),
)
"""Smallest first. The reserve is what an operating system and a desktop, or a driver, usually take."""

_BAR_COLUMNS = 30
_HISTOGRAM_ROWS = 8
_VERTICAL = " ▁▂▃▄▅▆▇█"


def smallest(machines: Sequence[Machine], nbytes: float) -> str:
    """Name the smallest machine that holds so many bytes of weights; empty when none does."""
    return next((machine.name for machine in machines if machine.holds(nbytes)), "")


def model_card(found: Inspection, name: str, every_tensor: bool = False) -> Group:
    """One screen about a model; with `every_tensor`, a row for each instead of one for equal ones."""
    return card(
        heading(name, found.container),
        facts(_facts(found)),
        _sizes(found.bytes_at),
        remark("8 and 4 bits with their scales. Fits: the weights and a tenth more; a long context needs extra."),
        heading("Tensors", f"{len(found.tensors)} in all"),
        _every_tensor(found.tensors) if every_tensor else _grouped(found.tensors),
    )


def _facts(found: Inspection) -> list[tuple[str, ...]]:
    bits = f"{significant(8 * found.nbytes / found.parameters)} bits per weight" if found.parameters else ""
    rows: list[tuple[str, ...]] = [
        ("family", found.family or "not known", "" if found.family else "tensors only: it cannot be run or measured"),
        ("parameters", count(found.parameters), f"{found.parameters:,}"),
        ("size", size(found.nbytes), bits),
    ]
    config = found.config
    shape = [
        f"{config[key]} {word}"
        for key, word in (
            ("num_hidden_layers", "layers"),
            ("hidden_size", "hidden"),
            ("num_attention_heads", "heads"),
            ("num_key_value_heads", "key-value heads"),
        )
        if isinstance(config.get(key), int)
    ]
    if shape:
        rows.append(("shape", shape[0], ", ".join(shape[1:])))
    if isinstance(config.get("max_position_embeddings"), int):
        rows.append(("context", f"{config['max_position_embeddings']} tokens"))
    if isinstance(config.get("vocab_size"), int):
        rows.append(("vocabulary", f"{config['vocab_size']} tokens"))
    return rows


def _sizes(bytes_at: Mapping[str, int]) -> RenderableType:
    largest = max(bytes_at.values(), default=1) or 1
    rows = []
    for bits, nbytes in bytes_at.items():
        fits = [name for name in (smallest(COMPUTERS, nbytes), smallest(GPUS, nbytes)) if name]
        rows.append(
            (
                f"{bits}-bit",
                size(nbytes),
                text(bar(nbytes / largest, _BAR_COLUMNS), "cyan"),
                " or ".join(fits) if fits else "more than one machine",
            )
        )
    return table(("precision", "size", "<" + " " * _BAR_COLUMNS, "<fits"), rows, folded={3: None})


def _every_tensor(tensors: Sequence[TensorSpec]) -> RenderableType:
    rows = [(spec.name, _shape(spec), spec.dtype, size(spec.nbytes)) for spec in tensors]
    return table(("<name", "<shape", "<dtype", "size"), rows)


def _grouped(tensors: Sequence[TensorSpec]) -> RenderableType:
    groups = group(tensors, lambda spec: spec.name, lambda spec: (spec.shape, spec.dtype))
    rows = [
        (
            members.label,
            str(len(members.rows)),
            _shape(members.rows[0]),
            members.rows[0].dtype,
            size(sum(spec.nbytes for spec in members.rows)),
        )
        for members in groups
    ]
    return table(("<name", "count", "<shape of each", "<dtype", "size together"), rows)


def _shape(spec: TensorSpec) -> str:
    return " x ".join(str(length) for length in spec.shape) or "scalar"


def tensor_card(view: TensorView, width: int) -> Group:
    """Range, histogram, and what rounding does to one tensor, within `width` columns."""
    spec = view.spec
    sampled = (
        ""
        if view.sampled_rows >= (spec.shape[0] if len(spec.shape) > 1 else 1)
        else (f"figures from its first {view.sampled_rows} rows")
    )
    per_bar = 2 if width >= 2 * len(view.histogram) + 4 else 1
    return card(
        heading(spec.name, sampled),
        facts(
            (
                ("shape", _shape(spec), f"{spec.parameters:,} weights, {spec.dtype}, {size(spec.nbytes)}"),
                ("range", f"{significant(view.minimum)} to {significant(view.maximum)}"),
                ("mean", f"{significant(view.mean)}, deviation {significant(view.deviation)}"),
                ("kurtosis", significant(view.kurtosis), "3 for a bell curve; more means outliers"),
                ("zeros", percent(view.zeros)),
            )
        ),
        _histogram(view, per_bar),
        _roundings(view),
        _examples(view),
    )


def _histogram(view: TensorView, per_bar: int) -> RenderableType:
    counts = [int(value) for value in view.histogram]
    tallest = max(counts, default=0) or 1
    # A bin that holds anything shows at least an eighth: outliers are what matters most.
    heights = [max(1, round(8 * _HISTOGRAM_ROWS * value / tallest)) if value else 0 for value in counts]
    lines = []
    for row in reversed(range(_HISTOGRAM_ROWS)):
        filled = [max(0, min(8, height - 8 * row)) for height in heights]
        lines.append("".join(_VERTICAL[eighths] * per_bar for eighths in filled).rstrip())
    ends = (significant(view.low), "0" if view.low == -view.high else "", significant(view.high))
    span = per_bar * len(counts)
    axis = ends[0] + ends[1].center(span - len(ends[0]) - len(ends[2])) + ends[2]
    bars = Text("\n".join(lines), style="cyan", no_wrap=True)
    return margin(Group(bars, Text(axis, style="dim", no_wrap=True)))


def _roundings(view: TensorView) -> RenderableType:
    rows = [
        (
            rounding.format,
            significant(rounding.bits_per_weight),
            significant(rounding.step) if rounding.step else "-",
            percent(rounding.relative_error),
        )
        for rounding in view.roundings
    ]
    return table(("<format", "bits per weight", "typical step", "relative error"), rows)


def _examples(view: TensorView) -> RenderableType:
    places = [f"[{row},{column}]" for row, column in view.example_at]
    rows: list[list[str | Text]] = [["as stored", *(f"{value:+#.4g}" for value in view.examples)]]
    rows += [[item.format, *(f"{value:+#.4g}" for value in item.examples)] for item in view.roundings]
    return table(("<weight", *places), rows)
