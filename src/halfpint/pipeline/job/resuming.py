"""What an earlier process has left of a job: how far it came, whether it is this very job, and what of it is sound."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from halfpint.checkpoints import open_checkpoint
from halfpint.checkpoints.checkpoint import Checkpoint, Writer
from halfpint.checkpoints.staging import Staging
from halfpint.errors import UsageError
from halfpint.pipeline.job import journal
from halfpint.pipeline.job.fingerprint import differences, summary, touched
from halfpint.pipeline.job.journal import JOURNAL_NAME
from halfpint.pipeline.job.tensor_writing import reads_back, source_hash
from halfpint.pipeline.options import Progress
from halfpint.pipeline.results import TensorOutcome
from halfpint.plans import Plan

CONTINUING = "continue"
"""The stage that is told once, when a job goes on with what an earlier process left."""

Finished = dict[str, TensorOutcome]
"""Tensor name -> what became of it."""


def earlier(
    source: Checkpoint, plan: Plan, staging: Staging, described: Mapping[str, Any], progress: Progress
) -> Finished:
    """Find what an earlier process finished of this very job.

    Parameters
    ----------
    source : Checkpoint
    plan : Plan
    staging : Staging
        Held; emptied when nothing in it can be gone on with.
    described : Mapping of str to Any
        The job's fingerprint.
    progress : Progress

    Returns
    -------
    dict of str to TensorOutcome
        As the journal tells; whether the bytes are still there is for `keep_sound` to see.

    Raises
    ------
    UsageError
        If what is there belongs to another job, or the source has changed since; it is left as it is.
    """
    before, records = journal.read(staging.folder / JOURNAL_NAME)
    if before is None or not records:
        staging.clear()
        return {}
    said = differences(before, described)
    if said:
        raise _refusal(staging, summary(said), len(records))
    planned = {tensor.name: tensor for tensor in plan.tensors}
    finished = {record["name"]: journal.outcome_of(record, planned) for record in records}
    if touched(before, described):
        _check_source(source, staging, finished, progress)
    total = _nbytes(source, planned)
    progress(CONTINUING, _nbytes(source, finished), total, f"{len(finished)} of {len(planned)} tensors were done")
    return finished


def keep_sound(source: Checkpoint, staging: Staging, writer: Writer, finished: Finished, progress: Progress) -> None:
    """Take over the tensors whose bytes stand in the output as they should, and forget the others.

    Parameters
    ----------
    source : Checkpoint
    staging : Staging
    writer : Writer
        Of the output in it; told of every row that stays.
    finished : dict of str to TensorOutcome
        Tensors that must be done again are removed.
    progress : Progress
    """
    if not finished:
        return
    done, total = 0, _nbytes(source, finished)
    checkpoint = open_checkpoint(staging.path)
    try:
        for name, outcome in list(finished.items()):
            progress("check", done, total, name)
            done += source.tensors[name].nbytes
            if reads_back(checkpoint, outcome) is not None:
                del finished[name]
                continue
            for start, end, _ in outcome.checksums:
                writer.keep_rows(name, start, end)
    finally:
        checkpoint.close()
    progress("check", total, total, "")


def _check_source(source: Checkpoint, staging: Staging, finished: Finished, progress: Progress) -> None:
    """Compare what was read of a source whose files were touched since with what they hold now."""
    done, total = 0, _nbytes(source, finished)
    for name, outcome in finished.items():
        progress("compare the source", done, total, name)
        if source_hash(source, outcome) != outcome.source_hash:
            raise _refusal(staging, f"{name} has changed in the source", len(finished))
        done += source.tensors[name].nbytes
    progress("compare the source", total, total, "")


def _refusal(staging: Staging, said: str, count: int) -> UsageError:
    return UsageError(
        f"an unfinished job for {staging.target} is not this one: {said}; give --fresh to start again, which "
        f"removes its {count} finished tensors, or another output name"
    )


def _nbytes(source: Checkpoint, names: Mapping[str, Any]) -> int:
    return sum(source.tensors[name].nbytes for name in names)
