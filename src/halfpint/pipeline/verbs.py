"""The verbs of the command line and of the Python API: paths and options in, records out."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from halfpint.kernels.machine import peak_memory_bytes
from halfpint.models.opening import open_model
from halfpint.pipeline.choosing.candidate_files import CandidateBuilder, CandidateFile
from halfpint.pipeline.choosing.plan_selection import decide
from halfpint.pipeline.choosing.quality_gate import judge
from halfpint.pipeline.choosing.size_search import Found, best_within, smallest_passing
from halfpint.pipeline.demonstration import demonstrate
from halfpint.pipeline.job import quantization
from halfpint.pipeline.looking import inspection
from halfpint.pipeline.looking.diagnosis import diagnose
from halfpint.pipeline.looking.measurement import held_out_windows, measure_checkpoints, speech
from halfpint.pipeline.looking.tokenizer_comparison import tokenizer_differences
from halfpint.pipeline.looking.verification import verify_checkpoint
from halfpint.pipeline.options import MeasureOptions, Progress, QuantizeOptions, silent
from halfpint.pipeline.results import (
    DemoResult,
    DoctorReport,
    Measurement,
    PlanResult,
    QuantizeResult,
    VerifyReport,
)
from halfpint.pipeline.running.benchmarking import bench
from halfpint.pipeline.running.text_generation import Chat, generate
from halfpint.planning import plan_file

__all__ = [
    "Chat",
    "bench",
    "demo",
    "doctor",
    "generate",
    "inspect",
    "inspect_tensor",
    "measure",
    "open_model",
    "plan",
    "quantize",
    "save_plan",
    "verify",
]


def inspect(model: str | Path) -> inspection.Inspection:
    """Describe a checkpoint from its headers alone."""
    checkpoint = open_model(model)
    try:
        return inspection.inspect_model(checkpoint)
    finally:
        checkpoint.close()


def inspect_tensor(model: str | Path, name: str, formats: tuple[str, ...] = ()) -> inspection.TensorView:
    """Describe one tensor's numbers, before and after rounding."""
    checkpoint = open_model(model)
    try:
        return inspection.inspect_tensor(checkpoint, name, formats)
    finally:
        checkpoint.close()


def verify(model: str | Path, progress: Progress = silent) -> VerifyReport:
    """Read everything in a checkpoint; an error says what is wrong with it."""
    checkpoint = open_model(model)
    try:
        return verify_checkpoint(checkpoint, progress)
    finally:
        checkpoint.close()


def plan(model: str | Path, options: QuantizeOptions, progress: Progress = silent) -> PlanResult:
    """Decide before paying; nothing is written.

    Headers alone are read, except for a budget of a model that may be calibrated: where its bytes do most good is
    measured.
    """
    checkpoint = open_model(model)
    try:
        return decide(checkpoint, options, progress)
    finally:
        checkpoint.close()


def save_plan(model: str | Path, planned: PlanResult, path: Path) -> None:
    """Write a plan as TOML, for `QuantizeOptions.plan_file`; an older file is replaced."""
    checkpoint = open_model(model)
    try:
        plan_file.write(path, plan_file.plan_file(planned.plan, checkpoint))
    finally:
        checkpoint.close()


def quantize(
    model: str | Path, output: str | Path, options: QuantizeOptions, progress: Progress = silent
) -> QuantizeResult:
    """Make a smaller checkpoint, read it back, and compare it with the original.

    Parameters
    ----------
    model : str or Path
        A Hugging Face folder, a .safetensors or .gguf file, or `demo`.
    output : str or Path
        A file for GGUF, a folder otherwise; must not exist. Appears only when it is whole.
    options : QuantizeOptions
    progress : Progress

    Returns
    -------
    QuantizeResult
        `verdict` is PASS or FAIL against the gate, UNGATED when nothing was asked, UNMEASURED when no comparison was
        made.
    """
    started = time.monotonic()
    source = open_model(model)
    try:
        quantization.refuse_target(source, Path(output))
        talks = speech(source)
        builder = CandidateBuilder.of(source, options, progress)
        found = _carry_out(builder, Path(output))
        measurement = _noted(found.made, builder)
    finally:
        source.close()
    made = found.made
    verdict, reason = judge(options.gate, None if measurement is None else measurement.quality)
    return QuantizeResult(
        planned=made.planned,
        output=made.written.output,
        tensors=made.written.tensors,
        seconds=time.monotonic() - started,
        peak_memory_bytes=peak_memory_bytes(),
        verdict=verdict,
        verdict_reason=reason,
        measurement=measurement,
        baseline=found.baseline,
        trials=found.trials,
        additivity=found.additivity,
        speech=talks,
        job_notes=made.written.notes,
    )


def _noted(made: CandidateFile, builder: CandidateBuilder) -> Measurement | None:
    """What was measured, with a note on every difference between the tokenizers of the output and its source."""
    if made.measurement is None or builder.windows is None:
        return made.measurement
    output = open_model(made.written.output)
    try:
        return replace(made.measurement, notes=tokenizer_differences(output, builder.source, builder.windows))
    finally:
        output.close()


def _carry_out(builder: CandidateBuilder, output: Path) -> Found:
    if builder.options.searches:
        return smallest_passing(builder, output)
    if builder.options.budget.wanted:
        return best_within(builder, output)
    return Found(builder.make(decide(builder.source, builder.options, builder.progress), output))


def measure(
    candidate: str | Path, against: str | Path, options: MeasureOptions, progress: Progress = silent
) -> Measurement:
    """Compare a model with its original on held-out text."""
    first = open_model(candidate)
    try:
        second = open_model(against)
        try:
            windows = held_out_windows(second, options)
            measurement = measure_checkpoints(first, second, windows, progress)
            return replace(measurement, notes=tokenizer_differences(first, second, windows))
        finally:
            second.close()
    finally:
        first.close()


def demo(progress: Progress = silent) -> DemoResult:
    """Tell the whole story on the embedded model."""
    return demonstrate(progress)


def doctor() -> DoctorReport:
    """Describe this machine, as far as it matters here."""
    return diagnose()
