"""The plan before the work, and the summary after it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from halfpint.pipeline.results import Baseline, PlanResult, QuantizeResult, TensorOutcome, Trial
from halfpint.planning.memory import MemoryNeed
from halfpint.plans import Plan, PlannedTensor
from halfpint.report.grouping import group
from halfpint.report.layout import card, facts, heading, remark, table, text
from halfpint.report.numbers import change, duration, percent, significant, size, with_error
from halfpint.report.quality import ERROR_NOTE, quality_facts

_VERDICT_STYLES = {"PASS": "bold green", "FAIL": "bold red", "UNGATED": "bold yellow", "UNMEASURED": "bold yellow"}
_WORST = 5
_MOST_NOTES = 8
_REASON_COLUMNS = 22
_UNCALIBRATED = "with --calibrate linear layers are solved on text: closer, and slower"


def plan_card(planned: PlanResult, name: str, every_tensor: bool = False) -> Group:
    """What would be written, and who could load it; equal tensors share a row unless `every_tensor`."""
    plan = planned.plan
    parts: list[RenderableType] = [
        heading(f"Plan for {name}", f"{plan.container}, nothing is written yet"),
        *_tensors(plan.tensors, every_tensor),
    ]
    if plan.dropped:
        parts.append(remark("\n".join(f"left out: {left}, {reason}" for left, reason in plan.dropped)))
    if plan.notes:
        parts.append(remark("\n".join(f"note: {note}" for note in plan.notes)))
    parts += [
        facts((*_sizes(planned.plan, planned.original_bytes), *_forecast(planned))),
        *_already(planned),
    ]
    if planned.memory is not None:
        parts += [heading("Where the memory goes"), facts(_memory(planned.memory))]
    parts += [heading("Who can load it"), facts(_loading(planned))]
    return card(*parts)


def _tensors(tensors: Sequence[PlannedTensor], every_tensor: bool) -> list[RenderableType]:
    """The table, and under it the notes that its marks stand for."""
    notes = {note: place for place, note in enumerate(dict.fromkeys(t.note for t in tensors if t.note), start=1)}
    if every_tensor:
        rows = [(t.name, _format(t), _why(t, notes), size(t.nbytes)) for t in tensors]
        made = [table(("<tensor", "<format", "<decided by", "size"), rows, folded={0: None, 2: _REASON_COLUMNS})]
    else:
        groups = group(tensors, lambda t: t.name, lambda t: (t.format, t.rule, t.solver, t.note))
        grouped = [
            (
                members.label,
                str(len(members.rows)),
                _format(members.rows[0]),
                _why(members.rows[0], notes),
                size(sum(t.nbytes for t in members.rows)),
            )
            for members in groups
        ]
        made = [
            table(
                ("<tensors", "count", "<format", "<decided by", "size"), grouped, folded={0: None, 3: _REASON_COLUMNS}
            )
        ]
    if notes:
        made.append(remark("\n".join(f"[{place}] {note}" for note, place in notes.items())))
    return [*made]


def _format(tensor: PlannedTensor) -> str:
    if tensor.format is None:
        return "as it is"
    return tensor.format.name


def _why(tensor: PlannedTensor, notes: Mapping[str, int]) -> Text:
    # The preset's rules end in the format's name, which the column before this one says already.
    reason = text(tensor.rule.removesuffix(f": {_format(tensor)}"))
    return reason.append_text(text(f" [{notes[tensor.note]}]", "yellow")) if tensor.note else reason


def _sizes(plan: Plan, original_bytes: int) -> list[tuple[str, str, str]]:
    changed = change(original_bytes, plan.nbytes)
    return [
        ("size", size(plan.nbytes), f"of {size(original_bytes)}: {changed}; {plan.nbytes:,} bytes"),
        ("bits per weight", significant(plan.bits_per_weight), "of the whole file, headers and scales included"),
    ]


def _forecast(planned: PlanResult) -> list[tuple[str, str, str]]:
    tokens = planned.calibration_tokens
    rows = [
        ("calibration", f"{tokens:,}" if tokens else "none", "tokens of text" if tokens else _UNCALIBRATED),
        ("peak memory", size(planned.peak_memory_bytes), "forecast, without the comparison"),
        ("time", duration(planned.seconds), _then(planned.comparison_seconds)),
    ]
    if planned.kl_interval is not None:
        interval = " to ".join(significant(end, 2) for end in planned.kl_interval)
        rows.append(("KL divergence", interval, "forecast, mean in nats"))
    return rows


def _then(comparison_seconds: float) -> str:
    if not comparison_seconds:
        return "forecast"
    return f"forecast, and {duration(comparison_seconds)} for the comparison"


def _already(planned: PlanResult) -> list[RenderableType]:
    """What a source that is quantized already means for the comparison."""
    if not planned.original_bits:
        return []
    return [
        remark(
            f"The source is quantized already, at {significant(planned.original_bits)} bits per weight. What it lost "
            "then stays lost, and the comparison, which is with the source, does not show it."
        )
    ]


def _instead(plan: Plan) -> list[RenderableType]:
    """What is not as it was asked for: how many matrices, and why."""
    matrices = [tensor for tensor in plan.tensors if len(tensor.shape) == 2]
    counts = Counter(tensor.note for tensor in matrices if tensor.note)
    return [remark(f"{count} of {len(matrices)} matrices: {note}") for note, count in counts.items()]


def _memory(need: MemoryNeed) -> list[tuple[str, str, str]]:
    return [
        ("memory", size(need.memory_bytes), f"asked for, with {need.engine}"),
        ("weights", size(need.weights_bytes), "at most"),
        ("keys and values", size(need.kv_bytes), f"of {need.context_tokens:,} tokens"),
        ("working memory", size(need.working_bytes), "estimate"),
        ("the engine itself", size(need.resting_bytes), "estimate"),
    ]


def _loading(planned: PlanResult) -> list[tuple[str, Text]]:
    rows = [(engine, text("yes", "green")) for engine in planned.engines]
    rows += [(engine, text(f"no: {reason}", "dim")) for engine, reason in planned.refusals.items()]
    return rows


def quantize_card(result: QuantizeResult, name: str) -> Group:
    """One screen: what was written, what it cost, what it kept, where it loads, what to do next."""
    parts: list[RenderableType] = [
        heading(f"{name} -> {result.output}", result.plan.container),
        facts((*_sizes(result.plan, result.planned.original_bytes), *_cost(result))),
        *_already(result.planned),
        *_instead(result.plan),
    ]
    found = result.measurement
    if found is not None:
        parts.append(facts(quality_facts(found.quality)))
        parts.append(remark(f"On {found.quality.tokens:,} held-out tokens. {ERROR_NOTE}"))
    if result.baseline is not None:
        parts.append(facts(_baseline(result.baseline, result)))
    elif result.planned.kl_mean is not None and result.additivity is not None and not result.trials:
        parts.append(remark("No preset or single format is so small: there is no uniform file to compare with."))
    if result.trials:
        parts += [heading("Sizes that were tried"), _trials(result.trials)]
    worst = sorted(result.tensors, key=lambda outcome: -outcome.relative_error)[:_WORST]
    if worst and worst[0].relative_error > 0:
        parts += [heading("Largest rounding errors"), _errors(worst)]
    if result.notes:
        shown = [f"note: {note}" for note in result.notes[:_MOST_NOTES]]
        more = len(result.notes) - len(shown)
        parts.append(remark("\n".join([*shown, *([f"and {more} more, which --json lists"] if more else [])])))
    parts += [verdict(result), facts(_next(result))]
    return card(*parts)


def _baseline(baseline: Baseline, result: QuantizeResult) -> list[tuple[str, str, str]]:
    told = "the better of the two, so that it was written" if baseline.kept else "the mixture is better"
    rows = [
        (
            "uniform",
            f"KL {with_error(baseline.quality.kl_mean, baseline.quality.kl_mean_stderr)}",
            f"halfpint quantize {baseline.name}: {size(baseline.nbytes)}; {told}",
        )
    ]
    if result.planned.kl_mean is not None:
        rows.append(("forecast", f"KL {significant(result.planned.kl_mean, 2)}", "from the tensors one by one"))
    return rows


def _trials(trials: Sequence[Trial]) -> RenderableType:
    rows = [
        (
            size(trial.nbytes),
            with_error(trial.quality.kl_mean, trial.quality.kl_mean_stderr),
            percent(trial.quality.top1_agreement, trial.quality.top1_agreement_stderr),
            "pass" if trial.passed else "fail",
        )
        for trial in trials
    ]
    return table(("size", "KL divergence", "top-1 agreement", "<gate"), rows)


def _cost(result: QuantizeResult) -> list[tuple[str, str]]:
    return [("time", duration(result.seconds)), ("peak memory", size(result.peak_memory_bytes))]


def _errors(worst: Sequence[TensorOutcome]) -> RenderableType:
    rows = [
        (outcome.planned.name, _format(outcome.planned), percent(outcome.relative_error))
        for outcome in worst
        if outcome.relative_error > 0
    ]
    return table(("<tensor", "<format", "relative error"), rows)


def verdict(result: QuantizeResult) -> Text:
    """PASS, FAIL, UNGATED or UNMEASURED, and why."""
    line = text(result.verdict, _VERDICT_STYLES[result.verdict])
    return line.append_text(text(f"  {result.verdict_reason}")) if result.verdict_reason else line


def _next(result: QuantizeResult) -> list[tuple[str, str]]:
    rows = [("loads in", ", ".join(result.planned.engines) or "no engine that we know")]
    if "halfpint" in result.planned.engines and result.speech:
        prompt = " 'Once upon a time'" if result.speech == "generate" else ""
        rows.append(("next", f"halfpint {result.speech} {shell_word(str(result.output))}{prompt}"))
    return rows


def shell_word(word: str) -> str:
    """A path as a shell takes it: quoted only when it must be."""
    safe = all(character.isalnum() or character in "._-/+@:," for character in word)
    return word if word and safe else "'" + word.replace("'", "'\\''") + "'"
