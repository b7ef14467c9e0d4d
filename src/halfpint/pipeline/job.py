"""Writing: plan, solve slice by slice, write aside, rename, and compare what reads back with what was meant."""

from __future__ import annotations

import resource
import time
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from halfpint import kernels, solvers
from halfpint.checkpoints import CONTAINERS, open_checkpoint
from halfpint.checkpoints.checkpoint import Checkpoint, Writer
from halfpint.errors import HalfpintError, UsageError, VerificationError
from halfpint.formats import check_finite
from halfpint.formats.plain import F16, Plain
from halfpint.pipeline.slicing import row_slices
from halfpint.pipeline.tokenizer_files import add_tokenizer_files
from halfpint.planning.planner import outputs_of
from halfpint.plans import Plan, PlannedTensor
from halfpint.solvers.statistics import Statistics
from halfpint.tensors import Array, FloatArray, QuantizedTensor

Progress = Callable[[str, int, int, str], None]
"""(stage, bytes done, bytes in all, what is being worked on)."""


Gathered = Iterable[Mapping[str, Statistics]]
"""For each block in turn, what the inputs of its weights looked like."""


def silent(stage: str, done: int, total: int, detail: str) -> None:
    """Report progress to nobody."""


@dataclass(frozen=True, slots=True)
class TensorOutcome:
    """What became of one tensor.

    Attributes
    ----------
    planned : PlannedTensor
    relative_error : float
        Root of sum (weight - decoded)^2 / sum weight^2; 0 for a copy.
    seconds : float
        Reading, solving and writing it.
    checksums : tuple of (start_row, end_row, crc32)
        Of what was written, slice by slice, to compare with what is read back.
    """

    planned: PlannedTensor
    relative_error: float
    seconds: float
    checksums: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True)
class Written:
    """Where the output is, and what became of every tensor."""

    output: Path
    tensors: tuple[TensorOutcome, ...]


def quantize(
    source: Checkpoint, output: Path, plan: Plan, gathered: Gathered = (), progress: Progress = silent
) -> Written:
    """Carry out a plan, and read the result back.

    Parameters
    ----------
    source : Checkpoint
        Open; never changed.
    output : Path
        A file for GGUF, a folder otherwise. Appears only when it is whole.
    plan : Plan
        Of this source.
    gathered : iterable of (Mapping of str to Statistics)
        Block by block, what tensors saw whose solver needs it; nothing for a plan without such.
    progress : Progress

    Returns
    -------
    Written

    Raises
    ------
    UsageError
        If the output touches the source, or exists.
    NonFiniteError
        If a weight is NaN or infinite: tensor and index are named.
    VerificationError
        If what was written does not read back as what was meant.
    """
    refuse_target(source, output)
    writer = CONTAINERS[plan.container].create(output, source, outputs_of(plan.tensors, source))
    try:
        add_tokenizer_files(source, writer)
        outcomes = _write_all(_Job(source, writer, progress), plan, gathered)
        path = writer.finish()
    except BaseException:
        writer.abandon()
        raise
    verify_written(path, plan, outcomes, progress)
    return Written(path, tuple(outcomes))


def peak_memory_bytes() -> int:
    """Most memory that this process ever held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def refuse_target(source: Checkpoint, output: Path) -> None:
    """Refuse an output that would touch the source, or something that is there already."""
    target, origin = output.resolve(), source.path.resolve()
    if target == origin or origin in target.parents or target in origin.parents:
        raise UsageError(f"the output {output} lies in or around the source {source.path}; choose another place")
    if output.exists() or output.is_symlink():
        raise UsageError(f"the output {output} exists; remove it or choose another name")
    if not output.parent.is_dir():
        raise UsageError(f"the folder {output.parent} does not exist; create it first")


@dataclass(frozen=True, slots=True)
class _Job:
    """What every step needs."""

    source: Checkpoint
    writer: Writer
    progress: Progress

    def write(self, tensor: PlannedTensor, statistics: Statistics | None) -> TensorOutcome:
        """Solve and write one tensor; its name is added to what goes wrong."""
        try:
            return _write_tensor(self, tensor, statistics)
        except HalfpintError as error:
            raise type(error)(f"{tensor.name}: {error}") from error


def _write_all(job: _Job, plan: Plan, gathered: Gathered) -> list[TensorOutcome]:
    """First what needs no text, then block by block what does; outcomes in the plan's order."""
    calibrated = {t.name: t for t in plan.tensors if solvers.needs_moments(t.solver)}
    total = sum(job.source.tensors[tensor.name].nbytes for tensor in plan.tensors)
    done = 0
    outcomes: dict[str, TensorOutcome] = {}
    for tensor in plan.tensors:
        if tensor.name not in calibrated:
            job.progress("quantize", done, total, tensor.name)
            outcomes[tensor.name] = job.write(tensor, None)
            done += job.source.tensors[tensor.name].nbytes
    if calibrated:
        for block in gathered:
            for name in (name for name in block if name in calibrated):
                job.progress("quantize", done, total, name)
                outcomes[name] = job.write(calibrated[name], block[name])
                done += job.source.tensors[name].nbytes
        unseen = [name for name in calibrated if name not in outcomes]
        if unseen:
            raise UsageError(
                f"the calibration text never reached {unseen[0]} (an expert that no token is routed to?); "
                "give more text, or leave --calibrate out"
            )
    job.progress("quantize", total, total, "")
    return [outcomes[tensor.name] for tensor in plan.tensors]


@dataclass(slots=True)
class _Sums:
    """Squared error and squared norm of one tensor, gathered over its slices in order."""

    error: float = 0.0
    norm: float = 0.0
    checksums: list[tuple[int, int, int]] = field(default_factory=list)

    def relative(self) -> float:
        return (self.error / self.norm) ** 0.5 if self.norm > 0 else 0.0


def _write_tensor(job: _Job, tensor: PlannedTensor, statistics: Statistics | None) -> TensorOutcome:
    started = time.monotonic()
    sums = _Sums()
    spec = job.source.tensors[tensor.name]
    row_wise = tensor.solver == "copy" or solvers.by_name(tensor.solver).row_wise
    rows = row_slices(tensor.shape, tensor.format, spec.format) if row_wise else [(0, tensor.shape[0])]
    for start, end in rows:
        value = job.source.read(tensor.name, start, end)
        result = value
        if tensor.solver != "copy":
            weight = to_float32(value)
            check_finite(weight, start)
            result = _solve_slice(weight, tensor, statistics, sums)
        meant = job.writer.write(tensor.name, start, result)
        sums.checksums.append((start, end, checksum(meant)))
    return TensorOutcome(tensor, sums.relative(), time.monotonic() - started, tuple(sums.checksums))


def _solve_slice(
    weight: FloatArray, tensor: PlannedTensor, statistics: Statistics | None, sums: _Sums
) -> QuantizedTensor | Array:
    fmt = tensor.format
    assert fmt is not None, "a tensor without a format is copied"
    if isinstance(fmt, Plain):
        return _to_plain(weight, fmt)
    result = solvers.by_name(tensor.solver).solve(weight, statistics, fmt).quantized
    decoded = kernels.decode(result)
    # In the order of the slices: the same figures on any number of threads.
    difference = (weight - decoded).ravel()
    error = float(np.dot(difference, difference))
    if not np.isfinite(error):
        raise VerificationError(f"{fmt.name} made a value that is not finite; keep this tensor in bf16")
    sums.error += error
    sums.norm += float(np.dot(weight.ravel(), weight.ravel()))
    return result


def to_float32(value: Array | QuantizedTensor) -> FloatArray:
    """Decode what a checkpoint gave into float32."""
    if isinstance(value, QuantizedTensor):
        return kernels.decode(value)
    return value.astype(np.float32)


def _to_plain(weight: FloatArray, fmt: Plain) -> Array:
    values: Array = weight.astype(fmt.dtype)
    if fmt is F16 and not np.isfinite(values).all():
        raise UsageError(f"a value of {float(np.abs(weight).max()):g} does not fit f16; use bf16 or f32")
    return values


def checksum(value: QuantizedTensor | Array) -> int:
    """crc32 over the parts of a tensor, in name order."""
    arrays = [value.parts[name] for name in sorted(value.parts)] if isinstance(value, QuantizedTensor) else [value]
    result = 0
    for array in arrays:
        result = zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data, result)
    return result


def verify_written(path: Path, plan: Plan, outcomes: list[TensorOutcome], progress: Progress = silent) -> None:
    """Open the output as a stranger would, and compare every slice with what was meant.

    Raises
    ------
    VerificationError
        Naming the tensor and the rows.
    """
    checkpoint = open_checkpoint(path)
    try:
        if checkpoint.weight_bytes != plan.nbytes:
            raise VerificationError(f"{path} has {checkpoint.weight_bytes} bytes, planned were {plan.nbytes}")
        missing = {outcome.planned.name for outcome in outcomes} ^ set(checkpoint.tensors)
        if missing:
            raise VerificationError(f"{path}: tensors do not match the plan: {', '.join(sorted(missing)[:5])}")
        total = sum(outcome.planned.nbytes for outcome in outcomes)
        done = 0
        for outcome in outcomes:
            progress("verify", done, total, outcome.planned.name)
            for start, end, meant in outcome.checksums:
                if checksum(checkpoint.read(outcome.planned.name, start, end)) != meant:
                    raise VerificationError(
                        f"{path}: {outcome.planned.name}, rows {start} to {end}, does not read back as written"
                    )
            done += outcome.planned.nbytes
        progress("verify", done, total, "")
    finally:
        checkpoint.close()
