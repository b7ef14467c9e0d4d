"""Cards of `demo`, `verify` and `doctor`, and the closing line of `generate`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType

from halfpint.report.layout import bar, card, facts, heading, margin, remark, table, text
from halfpint.report.numbers import count, duration, percent, rate, ratio, significant, size, with_error
from halfpint.report.terminal_text import one_line

if TYPE_CHECKING:
    from halfpint.pipeline.results import DemoEntry, DemoResult, DoctorReport, VerifyReport
    from halfpint.pipeline.running_results import Generated

_BAR_COLUMNS = 16

_INTEGER = re.compile(r"int(\d)(?:-g(\d+))?((?:-asym)?)((?:-bf16|-fp32)?)")


def demo_card(found: DemoResult) -> Group:
    """Size, quality and decode speed at every precision, and the same prompt continued by each."""
    entries = (found.original, *found.quantized)
    return card(
        heading("The demo model at every size", f"{count(found.parameters)} parameters"),
        _demo_sizes(entries),
        _demo_quality(entries),
        remark(
            "KL divergence: how far the next-token distributions are apart, in nats; 0 is the same model.\n"
            "Agreement: how often both put the same token first. ± is one standard error."
        ),
        heading("The same prompt, continued by each"),
        *(_sample(found.prompt, entry) for entry in entries),
        remark(f"All of this took {duration(found.seconds)}. Next: halfpint quantize demo demo.gguf --bits 4"),
    )


def _demo_sizes(entries: tuple[DemoEntry, ...]) -> RenderableType:
    largest = max(entry.nbytes for entry in entries)
    rows = [
        (
            entry.name,
            size(entry.nbytes),
            text(bar(entry.nbytes / largest, _BAR_COLUMNS), "cyan"),
            ratio(entries[0].nbytes, entry.nbytes),
            significant(entry.bits_per_weight),
            f"{entry.decode_tokens_per_second:.0f}",
        )
        for entry in entries
    ]
    return table(("<model", "size", "<" + " " * _BAR_COLUMNS, "smaller", "bits per weight", "decode tok/s"), rows)


def _demo_quality(entries: tuple[DemoEntry, ...]) -> RenderableType:
    rows = [
        (
            entry.name,
            with_error(entry.quality.kl_mean, entry.quality.kl_mean_stderr),
            percent(entry.quality.top1_agreement, entry.quality.top1_agreement_stderr),
            with_error(entry.quality.perplexity_ratio, entry.quality.perplexity_ratio_stderr),
        )
        for entry in entries
    ]
    return table(("<model", "KL divergence", "top-1 agreement", "perplexity ratio"), rows)


def _sample(prompt: str, entry: DemoEntry) -> RenderableType:
    continued = entry.sample.removeprefix(prompt)
    gap = " " if continued[:1].isspace() else ""
    # One line per sample keeps the card short.
    sample = text(prompt, "dim").append_text(text(gap + one_line(continued)))
    return margin(Group(text(entry.name, "cyan"), sample))


def verify_card(found: VerifyReport, name: str) -> Group:
    """What was checked of a checkpoint that holds together."""
    parts: list[RenderableType] = [
        heading(f"{name} holds together", found.container),
        facts(
            (
                ("family", found.family or "not known"),
                ("tensors", f"{found.tensors}", _checked(found)),
                ("parameters", count(found.parameters), f"{found.parameters:,}"),
                ("size", size(found.nbytes)),
            )
        ),
    ]
    if found.notes:
        parts.append(facts(("note", note) for note in found.notes))
    return card(*parts)


def _checked(found: VerifyReport) -> str:
    """What was looked at; numbers that were not are counted."""
    if not found.unchecked:
        return "all there, none reaches outside its file, every value finite"
    return f"all there, none reaches outside its file; {found.unchecked} hold no weights and were not looked into"


def generate_line(found: Generated) -> str:
    """One line: tokens and speed of prefill and decode, cached tokens, accepted drafts, peak memory."""
    cached = f" ({found.cached_tokens} cached)" if found.cached_tokens else ""
    drafts = f" ({found.accepted_tokens} of {found.drafted_tokens} drafts accepted)" if found.drafted_tokens else ""
    return (
        f"prefill {found.prompt_tokens} tokens at {found.prefill_tokens_per_second:.0f} tok/s{cached}, "
        f"decode {found.generated_tokens} tokens at {found.decode_tokens_per_second:.1f} tok/s{drafts}, "
        f"peak memory {size(found.peak_memory_bytes)}"
    )


def doctor_card(found: DoctorReport) -> Group:
    """Processor, memory, kernels in use, native encoders and installed packages."""
    available = f"{size(found.available_memory_bytes)} available"
    return card(
        heading(f"halfpint {found.version}", f"Python {found.python}, {found.platform}"),
        facts(
            (
                ("processor", found.processor or "not named", f"{found.processors} usable"),
                ("memory", size(found.memory_bytes), available),
                ("bandwidth", rate(found.read_bandwidth), "measured: decoding reads every weight once per token"),
                ("features", ", ".join(found.cpu_features) or "none that matter"),
            )
        ),
        heading("Kernels", f"in use: {found.kernel}"),
        margin(Group(*(text(line) for line in found.kernels))),
        facts(
            (
                (
                    "native encoders",
                    ", ".join(_shortened(found.native_formats)) or "none: the NumPy reference does the work",
                ),
            )
        ),
        heading("Installed"),
        facts(found.packages.items()),
    )


def _shortened(names: Sequence[str]) -> list[str]:
    """Names of formats, with the integer formats as one pattern where every combination of their parts is there."""
    found = [(name, match.groups()) for name in names if (match := _INTEGER.fullmatch(name))]
    parts = [sorted({parts[i] or "" for _, parts in found}) for i in range(4)]
    bits, groups = parts[0], sorted(int(group) for group in parts[1] if group)
    whole = len(parts[2]) == 2 and len(parts[3]) == 3 and "" in parts[1] and len(groups) > 1
    spread = len(bits) > 1 and int(bits[-1]) - int(bits[0]) == len(bits) - 1
    if not (whole and spread and len(found) == len(bits) * len(parts[1]) * 6):
        return list(names)
    pattern = f"int{bits[0]}..int{bits[-1]}[-gN][-asym][-bf16|-fp32] with N of {'|'.join(map(str, groups))}"
    integers = {name for name, _ in found}
    first = names.index(found[0][0])
    return [*names[:first], pattern, *(name for name in names[first:] if name not in integers)]
