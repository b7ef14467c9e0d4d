"""Records as the JSON objects that machines read: promised names, plain numbers, never NaN or Infinity."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from halfpint.report.losses import loss_map

if TYPE_CHECKING:
    # Records are read and not made: the commands that run a model need nothing of what makes the others.
    from halfpint.measuring.metrics import Quality
    from halfpint.pipeline.looking.inspection import Inspection, TensorView
    from halfpint.pipeline.results import (
        Baseline,
        DemoEntry,
        DemoResult,
        DoctorReport,
        Measurement,
        PlanResult,
        QuantizeResult,
        VerifyReport,
    )
    from halfpint.pipeline.running_results import BenchResult, BenchRow, Generated
    from halfpint.tensors import TensorSpec

Object = dict[str, Any]
"""One JSON object."""


def dumps(value: Object) -> str:
    """Write one object as strict JSON in ASCII, which no encoding and no terminal can take amiss.

    A number that is not finite becomes null, because JSON has no other word for it.
    """
    return json.dumps(plain(value), indent=2, allow_nan=False)


def plain(value: Any) -> Any:
    """Reduce a value to what JSON knows: records to objects, arrays and tuples to lists, NaN and infinity to null."""
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, bool | str | int | None):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, Sequence | set | frozenset):
        return [plain(entry) for entry in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return str(value) if isinstance(value, Path) else repr(value)


def inspection(found: Inspection) -> Object:
    """What `inspect MODEL` promises."""
    return {
        "family": found.family,
        "container": found.container,
        "parameters": found.parameters,
        "bytes": found.nbytes,
        "bits_per_weight": 8 * found.nbytes / found.parameters if found.parameters else None,
        "bytes_at": dict(found.bytes_at),
        "tensors": [_tensor(spec) for spec in found.tensors],
        "config": dict(found.config),
    }


def _tensor(spec: TensorSpec) -> Object:
    return {"name": spec.name, "shape": list(spec.shape), "dtype": spec.dtype, "bytes": spec.nbytes}


def tensor_view(view: TensorView) -> Object:
    """What `inspect MODEL TENSOR` gives: the tensor, its statistics and what each format does to it."""
    fields: Object = {
        field.name: getattr(view, field.name) for field in dataclasses.fields(view) if field.name != "spec"
    }
    return _tensor(view.spec) | fields


def plan(planned: PlanResult) -> Object:
    """What `plan` promises. The forecast of `kl_mean` is null unless the model's sensitivity was measured."""
    decided = planned.plan
    return {
        "container": decided.container,
        "parameters": decided.parameters,
        "bytes": decided.nbytes,
        "original_bytes": planned.original_bytes,
        "original_quantized_bits": planned.original_bits or None,
        "bits_per_weight": decided.bits_per_weight,
        "tensors": [
            {
                "name": tensor.name,
                "shape": list(tensor.shape),
                "format": None if tensor.format is None else tensor.format.name,
                "solver": tensor.solver,
                "bytes": tensor.nbytes,
                "rule": tensor.rule,
                "note": tensor.note,
            }
            for tensor in decided.tensors
        ],
        "dropped": [{"name": name, "reason": reason} for name, reason in decided.dropped],
        "notes": list(decided.notes),
        "engines": list(planned.engines),
        "refusals": dict(planned.refusals),
        "forecast": {
            "peak_memory_bytes": planned.peak_memory_bytes,
            "seconds": planned.seconds,
            "comparison_seconds": planned.comparison_seconds,
            "kl_mean": planned.kl_mean,
            "kl_interval": None if planned.kl_interval is None else list(planned.kl_interval),
            "calibration_tokens": planned.calibration_tokens,
        },
        "memory": None if planned.memory is None else dataclasses.asdict(planned.memory),
    }


def quantized(result: QuantizeResult) -> Object:
    """What `quantize` promises: the plan as it was carried out, its cost, and the verdict."""
    answer = plan(result.planned)
    found = loss_map(result)
    for described, outcome, losses in zip(answer["tensors"], result.tensors, found["tensors"], strict=True):
        described["relative_error"] = outcome.relative_error
        described["seconds"] = outcome.seconds
        described["losses"] = losses["losses"]
        described["kl"] = losses["kl"]
    return answer | {
        "seconds": result.seconds,
        "peak_memory_bytes": result.peak_memory_bytes,
        "output": str(result.output),
        "verdict": result.verdict,
        "verdict_reason": result.verdict_reason,
        "quality": None if result.measurement is None else measurement(result.measurement),
        "baseline": None if result.baseline is None else _baseline(result.baseline),
        "trials": [quality(trial.quality) | {"bytes": trial.nbytes, "passed": trial.passed} for trial in result.trials],
        "additivity": result.additivity,
        "blocks": found["blocks"],
        "notes": list(result.notes),
    }


def _baseline(found: Baseline) -> Object:
    return quality(found.quality) | {"name": found.name, "bytes": found.nbytes, "kept": found.kept}


def quality(found: Quality) -> Object:
    """Every figure of a comparison."""
    return dataclasses.asdict(found)


def measurement(found: Measurement) -> Object:
    """What `measure` promises, and the same figures for each kind of text."""
    return quality(found.quality) | {
        "bytes": found.nbytes,
        "reference_bytes": found.reference_bytes,
        "bits_per_weight": found.bits_per_weight,
        "seconds": found.seconds,
        "by_source": {source: quality(part) for source, part in found.by_source.items()},
        "notes": list(found.notes),
    }


def verified(found: VerifyReport) -> Object:
    """What `verify` gives for a checkpoint that holds together; one that does not is an error."""
    return {
        "container": found.container,
        "family": found.family,
        "tensors": found.tensors,
        "bytes": found.nbytes,
        "parameters": found.parameters,
        "notes": list(found.notes),
    }


def generated(found: Generated) -> Object:
    """What `generate` promises."""
    return dataclasses.asdict(found)


def demo(found: DemoResult) -> Object:
    """What `demo` promises."""
    return {
        "prompt": found.prompt,
        "parameters": found.parameters,
        "original": _demo_entry(found.original),
        "quantized": [_demo_entry(entry) for entry in found.quantized],
        "seconds": found.seconds,
    }


def _demo_entry(entry: DemoEntry) -> Object:
    return quality(entry.quality) | {
        "name": entry.name,
        "bytes": entry.nbytes,
        "bits_per_weight": entry.bits_per_weight,
        "decode_tokens_per_second": entry.decode_tokens_per_second,
        "sample": entry.sample,
    }


def benched(found: BenchResult) -> Object:
    """What `bench` promises: the figures of the longest prompt by themselves, and those of every length in `rows`."""
    longest = _bench_row(found.longest)
    shown = {key: longest[key] for key in _BENCH_FIGURES}
    return (
        {field.name: getattr(found, field.name) for field in dataclasses.fields(found) if field.name != "rows"}
        | shown
        | {"spread": longest["spread"], "rows": [_bench_row(row) for row in found.rows]}
    )


_BENCH_FIGURES = (
    "prefill_tokens_per_second",
    "decode_tokens_per_second",
    "arithmetic_share",
    "bandwidth_share",
    "integer_peak",
    "read_bandwidth",
)


def _bench_row(row: BenchRow) -> Object:
    spreads = {name: getattr(row, name) for name in _BENCH_FIGURES}
    return {
        "prompt_tokens": row.prompt_tokens,
        "tokens": row.tokens,
        **{name: spread.median for name, spread in spreads.items()},
        "spread": {name: [spread.lowest, spread.highest] for name, spread in spreads.items()},
    }


def doctor(found: DoctorReport) -> Object:
    """What `doctor` gives: the fields of its record."""
    fields: Object = plain(found)
    return fields
