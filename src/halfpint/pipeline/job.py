"""Writing: plan, solve tensor by tensor, write aside, compare what reads back with what was meant, and rename.

A job that ends early is not lost: what it has written stays in a hidden folder beside the output together with a
journal, and the same job goes on from there, to the same bytes.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from halfpint import solvers
from halfpint.checkpoints import CONTAINERS, open_checkpoint
from halfpint.checkpoints.checkpoint import Checkpoint, Writer
from halfpint.checkpoints.staging import Staging
from halfpint.errors import NonFiniteError, ShapeError, UnsupportedError, UsageError, VerificationError
from halfpint.pipeline.fingerprint import fingerprint
from halfpint.pipeline.journal import JOURNAL_NAME, Journal
from halfpint.pipeline.progress import Progress, silent
from halfpint.pipeline.resuming import Finished, earlier, keep_sound
from halfpint.pipeline.tokenizer_files import add_tokenizer_files
from halfpint.pipeline.writing import TensorOutcome, reads_back, write_tensor
from halfpint.planning.planner import outputs_of
from halfpint.plans import Plan, PlannedTensor
from halfpint.solvers.statistics import Statistics

Gathered = Iterable[Mapping[str, Statistics]]
"""For each block in turn, what the inputs of its weights looked like."""

# Another run of the same job would meet these again, so nothing that it has written can be of use.
_HOPELESS = (NonFiniteError, ShapeError, UnsupportedError, VerificationError)

# A power cut loses at most what was written in this time; a killed process loses nothing that was finished.
_SYNC_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Written:
    """Where the output is, and what became of every tensor.

    Attributes
    ----------
    output : Path
    tensors : tuple of TensorOutcome
        In the plan's order.
    continued : int
        How many of them an earlier process had finished.
    """

    output: Path
    tensors: tuple[TensorOutcome, ...]
    continued: int = 0


def quantize(
    source: Checkpoint,
    output: Path,
    plan: Plan,
    gathered: Gathered = (),
    progress: Progress = silent,
    fresh: bool = False,
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
    fresh : bool
        Whether what an earlier process has left of this output is removed; otherwise the job goes on with it.

    Returns
    -------
    Written

    Raises
    ------
    UsageError
        If the output touches the source, exists, is being written by another process, or an unfinished job of
        another kind is there and `fresh` is not given.
    NonFiniteError
        If a weight is NaN or infinite: tensor and index are named.
    VerificationError
        If what was written does not read back as what was meant.
    """
    refuse_target(source, output)
    described = fingerprint(source, plan, {})
    staging = Staging(output, keep=not fresh)
    try:
        finished = earlier(source, plan, staging, described, progress)
    except BaseException:
        staging.leave()
        raise
    return _carry_out(_Job(source, plan, staging, progress), described, finished, gathered)


def _carry_out(job: _Job, described: Mapping[str, Any], finished: Finished, gathered: Gathered) -> Written:
    """Do what is not finished; whatever ends this early, what can be of use is kept."""
    place: Staging | Writer = job.staging
    try:
        container, outputs = CONTAINERS[job.plan.container], outputs_of(job.plan.tensors, job.source)
        place = writer = container.create(job.staging.target, job.source, outputs, begun=job.staging)
        add_tokenizer_files(job.source, writer)
        keep_sound(job.source, job.staging, writer, finished, job.progress)
        continued = len(finished)
        _write_all(job, writer, described, finished, gathered)
        outcomes = [finished[tensor.name] for tensor in job.plan.tensors]
        verify_written(job.staging.path, job.plan, outcomes, job.progress)
        return Written(writer.finish(), tuple(outcomes), continued)
    except _HOPELESS:
        place.abandon()
        raise
    except BaseException as error:
        if not finished:
            place.abandon()
            raise
        place.leave()
        error.add_note(
            f"{len(finished)} of {len(job.plan.tensors)} tensors are kept in {job.staging.folder}; the same command "
            "goes on from there, with --fresh it starts again"
        )
        raise


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
    plan: Plan
    staging: Staging
    progress: Progress

    def nbytes(self, names: Iterable[str]) -> int:
        """Bytes of tensors in the source: what progress is counted in."""
        return sum(self.source.tensors[name].nbytes for name in names)

    def total(self) -> int:
        """The same of all that are planned."""
        return self.nbytes(tensor.name for tensor in self.plan.tensors)


def _write_all(job: _Job, writer: Writer, described: Mapping[str, Any], finished: Finished, gathered: Gathered) -> None:
    """Write what is not finished yet, and note it in the journal."""
    done, total = job.nbytes(finished), job.total()
    synced = time.monotonic()
    lines = Journal(job.staging.folder / JOURNAL_NAME, described, finished.values())
    try:
        for tensor, statistics in _wanted(job.plan, finished, gathered):
            job.progress("quantize", done, total, tensor.name)
            outcome = write_tensor(job.source, writer, tensor, statistics)
            lines.add(outcome)
            finished[tensor.name] = outcome
            done += job.nbytes([tensor.name])
            if time.monotonic() - synced > _SYNC_SECONDS:
                job.staging.sync()
                synced = time.monotonic()
    finally:
        lines.close()
    job.progress("quantize", total, total, "")


def _wanted(
    plan: Plan, finished: Mapping[str, TensorOutcome], gathered: Gathered
) -> Iterator[tuple[PlannedTensor, Statistics | None]]:
    """First what needs no text, then block by block what does."""
    missing = {tensor.name: tensor for tensor in plan.tensors if tensor.name not in finished}
    calibrated = {name for name, tensor in missing.items() if solvers.needs_moments(tensor.solver)}
    for name, tensor in missing.items():
        if name not in calibrated:
            yield tensor, None
    for block in gathered if calibrated else ():
        for name in block:
            if name in calibrated:
                calibrated.remove(name)
                yield missing[name], block[name]
    if calibrated:
        raise UnsupportedError(
            f"the calibration text never reached {min(calibrated)} (an expert that no token is routed to?); "
            "give more text, or leave --calibrate out"
        )


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
            rows = reads_back(checkpoint, outcome)
            if rows is not None:
                raise VerificationError(
                    f"{path}: {outcome.planned.name}, rows {rows[0]} to {rows[1]}, does not read back as written"
                )
            done += outcome.planned.nbytes
        progress("verify", done, total, "")
    finally:
        checkpoint.close()
