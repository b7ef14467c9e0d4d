"""The card of `bench`: prefill and decode speed, and their shares of the machine's limits."""

from __future__ import annotations

from rich.console import Group

from halfpint.pipeline.running_results import BenchResult, Spread
from halfpint.report.layout import card, facts, heading, remark, table
from halfpint.report.numbers import count, duration, percent, rate, significant, size


def bench_card(found: BenchResult, name: str) -> Group:
    """Prefill and decode speed at every length, with the share of peak and bandwidth that each reaches."""
    times = f"{found.repeats} times each" if found.repeats > 1 else "once each"
    rows = [
        (
            f"{row.prompt_tokens} + {row.tokens}",
            _ranged(row.prefill_tokens_per_second),
            percent(row.arithmetic_share.median),
            _ranged(row.decode_tokens_per_second),
            percent(row.bandwidth_share.median),
        )
        for row in found.rows
    ]
    threads = "1 thread" if found.threads == 1 else f"{found.threads} threads"
    longest = found.longest
    texts = f", {found.batch} texts together" if found.batch > 1 else ""
    return card(
        heading(f"{name} on {threads}", f"{found.kernel}, {times}{texts}"),
        table(("<tokens", "prefill tok/s", "of peak", "decode tok/s", "of bandwidth"), rows),
        facts(
            (
                ("bandwidth", rate(longest.read_bandwidth.median), f"{size(found.weight_bytes_per_token)} a token"),
                (
                    "peak",
                    f"{count(longest.integer_peak.median)} operations/s",
                    f"{count(found.operations_per_token)} a token, with {found.instruction}",
                ),
                ("loaded in", duration(found.load_seconds), f"peak memory {size(found.peak_memory_bytes)}"),
                ("processor", found.processor or "not named", f"halfpint {found.version}, numpy {found.numpy}"),
            )
        ),
        remark(
            "Median [lowest..highest]. Bandwidth and peak are measured right before and after each sample.\n"
            "Shares count the products with weights only, without attention."
        ),
    )


def _ranged(value: Spread) -> str:
    """Median and range of the samples."""
    return f"{significant(value.median)} [{significant(value.lowest)}..{significant(value.highest)}]"
