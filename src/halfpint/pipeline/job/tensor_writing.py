"""One tensor of a job: read in slices, solved, written, and accounted for."""

from __future__ import annotations

import hashlib
import time
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from halfpint import kernels, solvers
from halfpint.checkpoints.checkpoint import Checkpoint, Writer
from halfpint.errors import HalfpintError, UnsupportedError, VerificationError
from halfpint.formats import check_finite
from halfpint.formats.plain import F16, Plain
from halfpint.kernels import coding
from halfpint.kernels.machine import one_blas_thread
from halfpint.pipeline.results import TensorOutcome
from halfpint.plans import PlannedTensor
from halfpint.solvers.rows import apart as rows_apart
from halfpint.solvers.statistics import Statistics
from halfpint.tensors import SLICE_WEIGHTS, Array, FloatArray, QuantizedTensor, row_slices

# An expert that the router sends nobody to, in a text that is not long enough for it.
_UNSEEN = "no token of the calibration text came here: codes are the nearest ones"


# Relative error from which on a tensor is warned of: formats of two bits leave up to .45 of ordinary weights.
_LOST = 0.6


@dataclass(slots=True)
class _Account:
    """What is added up over the slices of one tensor, in their order: the same figures on any number of threads."""

    error: float = 0.0
    norm: float = 0.0
    checksums: list[tuple[int, int, int]] = field(default_factory=list)
    losses: Mapping[str, float] = field(default_factory=dict)
    note: str = ""

    def relative(self) -> float:
        return (self.error / self.norm) ** 0.5 if self.norm > 0 else 0.0


def write_tensor(
    source: Checkpoint,
    writer: Writer,
    tensor: PlannedTensor,
    statistics: Statistics | None,
    slice_weights: int = SLICE_WEIGHTS,
) -> TensorOutcome:
    """Solve and write one tensor, about `slice_weights` of it at a time where its solver allows.

    Raises
    ------
    HalfpintError
        Whatever goes wrong, with the tensor's name in front.
    """
    try:
        return _write(source, writer, tensor, statistics, slice_weights)
    except HalfpintError as error:
        raise type(error)(f"{tensor.name}: {error}") from error


def _write(
    source: Checkpoint, writer: Writer, planned: PlannedTensor, statistics: Statistics | None, slice_weights: int
) -> TensorOutcome:
    started, tensor = time.monotonic(), planned
    account, content = _Account(), hashlib.sha256()
    spec = source.tensors[tensor.name]
    if statistics is None and solvers.needs_moments(tensor.solver):
        tensor, account.note = replace(tensor, solver="nearest"), _UNSEEN
    row_wise = tensor.solver == "copy" or solvers.by_name(tensor.solver).row_wise
    sliced = row_slices(tensor.shape, tensor.format, spec.format, slice_weights=slice_weights)
    rows = sliced if row_wise else [(0, tensor.shape[0])]
    for start, end in rows:
        value = source.read(tensor.name, start, end)
        for data in _part_bytes(value):
            content.update(data)
        result = value
        if tensor.solver != "copy":
            weight = coding.to_float32(value)
            del value, result  # not to be held while the solver works
            check_finite(weight, start)
            result = _solve_slice(weight, tensor, statistics, account)
        meant = writer.write(tensor.name, start, result)
        account.checksums.append((start, end, checksum(meant)))
    if account.relative() > _LOST:
        lost = f"{account.relative():.0%} of it is lost: values too small, or too unlike, for the format's scales"
        account.note = "; ".join(note for note in (account.note, lost) if note)
    seconds = time.monotonic() - started
    return TensorOutcome(
        planned=planned,
        relative_error=account.relative(),
        seconds=seconds,
        checksums=tuple(account.checksums),
        source_hash=content.hexdigest(),
        losses=account.losses,
        note=account.note,
    )


def _solve_slice(
    weight: FloatArray, tensor: PlannedTensor, statistics: Statistics | None, account: _Account
) -> QuantizedTensor | Array:
    fmt = tensor.format
    assert fmt is not None, "a tensor without a format is copied"
    if isinstance(fmt, Plain):
        return _to_plain(weight, fmt)
    solved = solvers.by_name(tensor.solver).solve(weight, statistics, fmt)
    account.losses, account.note = solved.losses, solved.note or account.note
    for start, decoded in _decoded(solved.quantized):
        rows = weight[start : start + len(decoded)]
        error = _squares(rows - decoded)
        if not np.isfinite(error):
            raise VerificationError(f"{fmt.name} made a value that is not finite; keep this tensor in bf16")
        account.error += error
        account.norm += _squares(rows)
    return solved.quantized


def _decoded(quantized: QuantizedTensor) -> Iterator[tuple[int, FloatArray]]:
    """First row and values of one slice after the other, where rows stand on their own; else of the whole."""
    fmt, shape = quantized.format, quantized.shape
    if not rows_apart(fmt, shape):
        yield 0, kernels.decode(quantized)
        return
    for start, end in row_slices(shape, fmt):
        parts = {name: part[start:end] for name, part in quantized.parts.items()}
        yield start, kernels.decode(QuantizedTensor(fmt, (end - start, shape[1]), parts))


def _squares(values: FloatArray) -> float:
    flat = values.ravel()
    with one_blas_thread():
        return float(np.dot(flat, flat))


def _to_plain(weight: FloatArray, fmt: Plain) -> Array:
    values: Array = weight.astype(fmt.dtype)
    if fmt is F16 and not np.isfinite(values).all():
        raise UnsupportedError(f"a value of {float(np.abs(weight).max()):g} does not fit f16; use bf16 or f32")
    return values


def checksum(value: QuantizedTensor | Array) -> int:
    """crc32 over the parts of a tensor, in name order."""
    result = 0
    for data in _part_bytes(value):
        result = zlib.crc32(data, result)
    return result


def reads_back(checkpoint: Checkpoint, outcome: TensorOutcome) -> tuple[int, int] | None:
    """Compare a tensor with what was meant; the first rows (start, end) that differ, or None when none do."""
    for start, end, meant in outcome.checksums:
        if checksum(checkpoint.read(outcome.planned.name, start, end)) != meant:
            return start, end
    return None


def source_hash(source: Checkpoint, outcome: TensorOutcome) -> str:
    """`TensorOutcome.source_hash` of what the source holds now."""
    content = hashlib.sha256()
    for start, end, _ in outcome.checksums:
        for data in _part_bytes(source.read(outcome.planned.name, start, end)):
            content.update(data)
    return content.hexdigest()


def _part_bytes(value: QuantizedTensor | Array) -> Iterator[memoryview]:
    """Bytes of a tensor's parts, in name order."""
    arrays = [value.parts[name] for name in sorted(value.parts)] if isinstance(value, QuantizedTensor) else [value]
    for array in arrays:
        yield np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
