"""Writing: plan, solve tensor by tensor, write aside, compare what reads back with what was meant, and rename.

A job that ends early is not lost: what it has written stays in a hidden folder beside the output together with a
journal, and the same job goes on from there, to the same bytes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from halfpint.calibration.dual_stream import CalibrationReport
from halfpint.checkpoints import CONTAINERS, open_checkpoint
from halfpint.checkpoints.checkpoint import Checkpoint, Writer
from halfpint.checkpoints.staging import Staging
from halfpint.errors import (
    HalfpintError,
    NonFiniteError,
    RoomError,
    ShapeError,
    UnsupportedError,
    UsageError,
    VerificationError,
)
from halfpint.pipeline.job.calibrated_solving import Calibration, is_needed, solve_with_text
from halfpint.pipeline.job.fingerprint import fingerprint
from halfpint.pipeline.job.job_state import JobState
from halfpint.pipeline.job.journal import JOURNAL_NAME, Journal
from halfpint.pipeline.job.output_tokenizer import add_tokenizer_files
from halfpint.pipeline.job.resuming import Finished, earlier, keep_sound
from halfpint.pipeline.job.tensor_writing import reads_back
from halfpint.pipeline.options import Progress, silent
from halfpint.pipeline.results import TensorOutcome
from halfpint.planning.planner import outputs_of
from halfpint.plans import Plan
from halfpint.solvers import needs_moments
from halfpint.tensors import SLICE_WEIGHTS

# Another run of the same job would meet these again, so nothing that it has written can be of use.
_HOPELESS = (NonFiniteError, ShapeError, UnsupportedError, VerificationError)


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
    calibration : CalibrationReport or None
        What the stream of text saw, of this process; None when there was nothing left to solve with text.
    notes : tuple of str
        What went wrong without ending the job.
    """

    output: Path
    tensors: tuple[TensorOutcome, ...]
    continued: int = 0
    calibration: CalibrationReport | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class JobSettings:
    """How a job is carried out; it decides nothing about the output.

    Attributes
    ----------
    fresh : bool
        Whether what an earlier process has left of the output is removed; otherwise the job goes on with it.
    slice_weights : int
        Weights that are worked on at a time, where rows are solved apart.
    examine : function of Path, optional
        Looks at the output when it is whole and read back, before it appears: what ends that, ends a job that the same
        command goes on with. An error of its own does not keep the output from appearing.
    """

    fresh: bool = False
    slice_weights: int = SLICE_WEIGHTS
    examine: Callable[[Path], object] | None = None


def quantize(
    source: Checkpoint,
    output: Path,
    plan: Plan,
    calibration: Calibration | None = None,
    progress: Progress = silent,
    settings: JobSettings = JobSettings(),
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
    calibration : Calibration or None
        The text for tensors whose solver looks at it; None for a plan without such.
    progress : Progress
    settings : JobSettings

    Returns
    -------
    Written

    Raises
    ------
    UsageError
        If the output touches the source, exists, is being written by another process, or an unfinished job of
        another kind is there and `settings.fresh` is false.
    NonFiniteError
        If a weight is NaN or infinite: tensor and index are named.
    VerificationError
        If what was written does not read back as what was meant.
    """
    refuse_target(source, output)
    if calibration is None and is_needed(plan):
        raise UsageError("the plan has solvers that look at text, and no text is given")
    text = {} if calibration is None else {"calibration": calibration.described()}
    described = fingerprint(source, plan, text, whole=calibration is not None)
    staging = Staging(output, keep=not settings.fresh)
    try:
        finished = earlier(source, plan, staging, described, progress)
    except BaseException:
        staging.leave()
        raise
    job = _Job(source, plan, staging, progress, settings.slice_weights, settings.examine)
    return _carry_out(job, described, finished, calibration)


def _carry_out(job: _Job, described: Mapping[str, Any], finished: Finished, calibration: Calibration | None) -> Written:
    """Do what is not finished; whatever ends this early, what can be of use is kept."""
    place: Staging | Writer = job.staging
    try:
        container, outputs = CONTAINERS[job.plan.container], outputs_of(job.plan.tensors, job.source)
        place = writer = container.create(job.staging.target, job.source, outputs, begun=job.staging)
        add_tokenizer_files(job.source, writer)
        keep_sound(job.source, job.staging, writer, finished, job.progress)
        continued = len(finished)
        lines = Journal(job.staging.folder / JOURNAL_NAME, described, finished.values())
        try:
            work = JobState(job.source, job.plan, job.staging, writer, lines, finished, job.progress, job.slice_weights)
            report = _write_all(work, calibration)
        finally:
            lines.close()
        outcomes = [finished[tensor.name] for tensor in job.plan.tensors]
        verify_written(job.staging.path, job.plan, outcomes, job.progress)
        job.source.check_unchanged()
        failure = _examined(job)
        written = Written(writer.finish(), tuple(outcomes), continued, report, tuple(work.notes))
        if failure is not None:
            raise failure
        return written
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


def refuse_target(source: Checkpoint, output: Path) -> None:
    """Refuse an output that would touch the source or something that is there already, or cannot be written."""
    try:
        target, origin = output.resolve(), source.path.resolve()
    except RuntimeError as error:
        raise UsageError(f"the output {output} is a link that leads in a circle; choose another name") from error
    if target == origin or origin in target.parents or target in origin.parents:
        raise UsageError(f"the output {output} lies in or around the source {source.path}; choose another place")
    if output.exists() or output.is_symlink():
        raise UsageError(f"the output {output} exists; remove it or choose another name")
    if not output.parent.is_dir():
        raise UsageError(f"the folder {output.parent} does not exist; create it first")
    if not os.access(output.parent, os.W_OK | os.X_OK):
        raise UsageError(f"the folder {output.parent} cannot be written to; choose another place")


@dataclass(frozen=True, slots=True)
class _Job:
    """What every step needs."""

    source: Checkpoint
    plan: Plan
    staging: Staging
    progress: Progress
    slice_weights: int
    examine: Callable[[Path], object] | None


def _examined(job: _Job) -> HalfpintError | None:
    """Let the output be looked at; an error that another run would meet again is given back."""
    try:
        if job.examine is not None:
            job.examine(job.staging.path)
    except RoomError:
        raise
    except HalfpintError as error:
        return error
    return None


def _write_all(work: JobState, calibration: Calibration | None) -> CalibrationReport | None:
    """Write what is not finished; where text is looked at, vectors first, because a NaN among them is soon found."""
    missing = [tensor for tensor in work.plan.tensors if tensor.name not in work.finished]
    report = None
    if calibration is not None and any(needs_moments(tensor.solver) for tensor in missing):
        for tensor in missing:
            if len(tensor.shape) != 2:
                work.write(tensor)
        report = solve_with_text(work, calibration)
    for tensor in missing:
        work.write(tensor)
    work.end()
    return report


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
