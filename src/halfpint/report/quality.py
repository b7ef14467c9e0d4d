"""The quality card: how far a model is from its original, as a table and as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Group, RenderableType

from halfpint.measuring.metrics import Quality
from halfpint.pipeline.results import Measurement
from halfpint.report.layout import card, facts, heading, remark, table
from halfpint.report.numbers import change, count, duration, percent, significant, size, with_error

ERROR_NOTE = "± is one standard error, over windows of text."


def measure_card(found: Measurement, name: str, reference: str) -> Group:
    """The whole card for a terminal."""
    return card(
        heading(name, f"against {reference}"),
        facts(quality_facts(found.quality)),
        facts(_size_facts(found)),
        _by_source(found),
        *([facts(("note", note) for note in found.notes)] if found.notes else []),
        remark(ERROR_NOTE),
    )


def quality_facts(found: Quality) -> list[tuple[str, str, str]]:
    """The lines about quality: label, figure, what it means."""
    tail = ", ".join(
        f"{word} {significant(value)}"
        for word, value in (
            ("median", found.kl_median),
            ("p99", found.kl_p99),
            ("p99.9", found.kl_p999),
            ("max", found.kl_max),
        )
    )
    agreement = percent(found.top1_agreement, found.top1_agreement_stderr)
    perplexity = with_error(found.perplexity_ratio, found.perplexity_ratio_stderr)
    before_after = f"{significant(found.reference_perplexity, 4)} -> {significant(found.perplexity, 4)}"
    return [
        ("KL divergence", f"{with_error(found.kl_mean, found.kl_mean_stderr)} nats", tail),
        ("top-1 agreement", agreement, "of the tokens, both put the same one first"),
        ("perplexity ratio", perplexity, f"{before_after}; 1 is unchanged"),
    ]


def _size_facts(found: Measurement) -> list[tuple[str, str, str]]:
    changed = change(found.reference_bytes, found.nbytes)
    return [
        ("size", size(found.nbytes), f"of {size(found.reference_bytes)}: {changed}"),
        ("bits per weight", significant(found.bits_per_weight), "of the whole file"),
        ("compared on", f"{found.quality.tokens:,} tokens", f"in {duration(found.seconds)}"),
    ]


_SOURCE_HEADS = ("<text", "tokens", "KL divergence", "top-1 agreement", "perplexity ratio")


def _source_rows(found: Measurement) -> Sequence[Sequence[str]]:
    return [
        (
            source,
            count(part.tokens),
            with_error(part.kl_mean, part.kl_mean_stderr),
            percent(part.top1_agreement, part.top1_agreement_stderr),
            with_error(part.perplexity_ratio, part.perplexity_ratio_stderr),
        )
        for source, part in found.by_source.items()
    ]


def _by_source(found: Measurement) -> RenderableType:
    return table(_SOURCE_HEADS, _source_rows(found))


def measure_markdown(found: Measurement, name: str, reference: str) -> str:
    """The same card as Markdown, for a model's README."""
    lines = [f"## {escape(name)} against {escape(reference)}", "", "| | | |", "|---|---|---|"]
    for label, figure, meaning in (*quality_facts(found.quality), *_size_facts(found)):
        lines.append(f"| {label} | {figure} | {meaning} |")
    lines += ["", _row(head.removeprefix("<") for head in _SOURCE_HEADS), "|---" + "|---:" * 4 + "|"]
    lines += [_row(map(escape, row)) for row in _source_rows(found)]
    lines += ["", ERROR_NOTE, *(f"\nNote: {escape(note)}" for note in found.notes)]
    return "\n".join(lines)


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def escape(words: str) -> str:
    """Keep a name from ending a table's cell or starting markup."""
    for character in "\\|`*_<>[]":
        words = words.replace(character, f"\\{character}")
    return " ".join(words.split())
