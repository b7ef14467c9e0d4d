"""The verbs of the command line and of the Python API: paths and options in, records out."""

from __future__ import annotations

import math
import time
from pathlib import Path

from halfpint.checkpoints import open_checkpoint
from halfpint.measuring.metrics import Quality
from halfpint.pipeline import inspection, job
from halfpint.pipeline.deciding import decide
from halfpint.pipeline.demonstration import demonstrate
from halfpint.pipeline.diagnosis import diagnose
from halfpint.pipeline.measurement import gather, held_out_windows, measure_checkpoints
from halfpint.pipeline.opening import open_model
from halfpint.pipeline.options import Gate, MeasureOptions, QuantizeOptions
from halfpint.pipeline.progress import Progress, silent
from halfpint.pipeline.results import (
    DemoResult,
    DoctorReport,
    Measurement,
    PlanResult,
    QuantizeResult,
    Verdict,
    VerifyReport,
)
from halfpint.pipeline.speaking import Chat, generate
from halfpint.pipeline.verification import verify_checkpoint
from halfpint.planning import plan_file

__all__ = [
    "Chat",
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
        `verdict` is PASS or FAIL against the gate, UNMEASURED when no comparison was made.
    """
    started = time.monotonic()
    source = open_model(model)
    try:
        planned = decide(source, options, progress)
        # Whatever is wrong with text, tokenizer or family is found before the work, not after.
        windows = None if options.measure is None else held_out_windows(source, options.measure)
        gathered = gather(source, planned.plan, options.calibration)
        written = job.quantize(source, Path(output), planned.plan, gathered, progress, options.fresh)
        measurement = None
        if windows is not None:
            result = open_checkpoint(written.output)
            try:
                measurement = measure_checkpoints(result, source, windows, progress)
            finally:
                result.close()
    finally:
        source.close()
    verdict, reason = judge(options.gate, None if measurement is None else measurement.quality)
    return QuantizeResult(
        planned=planned,
        output=written.output,
        tensors=written.tensors,
        seconds=time.monotonic() - started,
        peak_memory_bytes=job.peak_memory_bytes(),
        verdict=verdict,
        verdict_reason=reason,
        measurement=measurement,
    )


def judge(gate: Gate, quality: Quality | None) -> tuple[Verdict, str]:
    """Hold a quality against a gate; the reason says by how much, with the interval of doubt."""
    if quality is None:
        return "UNMEASURED", "written and read back; not compared with the original"
    agreement = f"top-1 agreement {quality.top1_agreement:.2%} ± {_doubt(quality.top1_agreement_stderr, '.2%')}"
    divergence = f"mean KL {quality.kl_mean:.5f} ± {_doubt(quality.kl_mean_stderr, '.5f')}"
    if quality.top1_agreement < gate.keep:
        return "FAIL", f"{agreement}, asked for {gate.keep:.2%}"
    if quality.kl_mean > gate.max_kl:
        return "FAIL", f"{divergence}, asked for {gate.max_kl:g} at most"
    return "PASS", f"{agreement}, {divergence}"


def _doubt(stderr: float, form: str) -> str:
    return "unknown" if math.isnan(stderr) else format(stderr, form)


def measure(
    candidate: str | Path, against: str | Path, options: MeasureOptions, progress: Progress = silent
) -> Measurement:
    """Compare a model with its original on held-out text."""
    first = open_model(candidate)
    try:
        second = open_model(against)
        try:
            return measure_checkpoints(first, second, held_out_windows(second, options), progress)
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
