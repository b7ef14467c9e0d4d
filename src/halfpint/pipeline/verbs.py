"""The verbs of the command line and of the Python API: paths and options in, records out."""

from __future__ import annotations

import math
import time
from pathlib import Path

from halfpint.checkpoints import CONTAINERS, open_checkpoint
from halfpint.checkpoints.checkpoint import Checkpoint
from halfpint.errors import UnsupportedError
from halfpint.families import find
from halfpint.measuring.metrics import Quality
from halfpint.pipeline import inspection, job
from halfpint.pipeline.demonstration import demonstrate
from halfpint.pipeline.diagnosis import diagnose
from halfpint.pipeline.job import Progress, silent
from halfpint.pipeline.measurement import gather, held_out_windows, measure_checkpoints, reads_text
from halfpint.pipeline.opening import open_model
from halfpint.pipeline.options import CALIBRATED_PARAMETERS, Gate, MeasureOptions, QuantizeOptions
from halfpint.pipeline.results import (
    DemoResult,
    DoctorReport,
    Measurement,
    PlanResult,
    QuantizeResult,
    Verdict,
    VerifyReport,
)
from halfpint.pipeline.slicing import SLICE_WEIGHTS
from halfpint.pipeline.speaking import Chat, generate
from halfpint.pipeline.verification import verify_checkpoint
from halfpint.planning import engines
from halfpint.planning.planner import make_plan

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
    "verify",
]

# Forecasts: what the interpreter and its libraries hold, the arrays of float32 size that a slice goes through, and
# the weights a second that one thread of a laptop reads, solves, writes and reads back.
_RESTING_BYTES = 150_000_000
_ARRAYS_PER_SLICE = 6
_WEIGHTS_PER_SECOND = 20_000_000


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


def plan(model: str | Path, options: QuantizeOptions) -> PlanResult:
    """Decide from headers alone; nothing is written."""
    checkpoint = open_model(model)
    try:
        return _plan(checkpoint, options)
    finally:
        checkpoint.close()


def _plan(checkpoint: Checkpoint, options: QuantizeOptions) -> PlanResult:
    made = make_plan(checkpoint, CONTAINERS[options.container], options.wish(calibrates(checkpoint, options)))
    refusals = engines.refusals(made, checkpoint.config)
    if options.engine in refusals:
        raise UnsupportedError(f"{options.engine} cannot load this: {refusals[options.engine]}")
    weights = sum(spec.parameters for spec in checkpoint.tensors.values())
    return PlanResult(
        plan=made,
        original_bytes=checkpoint.weight_bytes,
        engines=engines.loaders(made, checkpoint.config),
        refusals=refusals,
        peak_memory_bytes=_RESTING_BYTES + _ARRAYS_PER_SLICE * 4 * min(weights, SLICE_WEIGHTS),
        seconds=weights / _WEIGHTS_PER_SECOND,
    )


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
        planned = _plan(source, options)
        # Whatever is wrong with text, tokenizer or family is found before the work, not after.
        windows = None if options.measure is None else held_out_windows(source, options.measure)
        written = job.quantize(source, Path(output), planned.plan, gather(source, planned.plan), progress)
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


def calibrates(checkpoint: Checkpoint, options: QuantizeOptions) -> bool:
    """Whether this job looks at text: as asked, or where it takes seconds."""
    if options.calibrate is not None:
        return options.calibrate
    weights = sum(spec.parameters for spec in checkpoint.tensors.values())
    return weights <= CALIBRATED_PARAMETERS and find(checkpoint.config) is not None and reads_text(checkpoint)


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
