"""The tensors of a job, one after the other: written, noted in the journal, and counted."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from halfpint.checkpoints.checkpoint import Checkpoint, Writer
from halfpint.checkpoints.staging import Staging
from halfpint.pipeline.job.journal import Journal
from halfpint.pipeline.job.resuming import Finished
from halfpint.pipeline.job.tensor_writing import write_tensor
from halfpint.pipeline.options import Progress
from halfpint.plans import Plan, PlannedTensor
from halfpint.solvers.statistics import Statistics
from halfpint.tensors import SLICE_WEIGHTS

# A power cut loses at most what was written in this time; a killed process loses nothing that was finished.
_SYNC_SECONDS = 30.0


@dataclass(slots=True)
class JobState:
    """A job under way.

    Attributes
    ----------
    source : Checkpoint
    plan : Plan
    staging : Staging
        Where the output grows.
    writer : Writer
        Of it.
    journal : Journal
        In it.
    finished : dict of str to TensorOutcome
        Added to.
    progress : Progress
        Told in bytes of the source.
    slice_weights : int
        Weights that are worked on at a time.
    notes : list of str
        What went wrong without ending the job; added to.
    """

    source: Checkpoint
    plan: Plan
    staging: Staging
    writer: Writer
    journal: Journal
    finished: Finished
    progress: Progress
    slice_weights: int = SLICE_WEIGHTS
    notes: list[str] = field(default_factory=list)
    _synced: float = field(default_factory=time.monotonic)
    _done: int = field(init=False)
    _total: int = field(init=False)

    def __post_init__(self) -> None:
        tensors = self.source.tensors
        self._done = sum(tensors[name].nbytes for name in self.finished)
        self._total = sum(tensors[tensor.name].nbytes for tensor in self.plan.tensors)

    def write(self, tensor: PlannedTensor, statistics: Statistics | None = None) -> None:
        """Solve and write a tensor, unless it is finished."""
        if tensor.name in self.finished:
            return
        self.progress("quantize", self._done, self._total, tensor.name)
        outcome = write_tensor(self.source, self.writer, tensor, statistics, self.slice_weights)
        self.journal.add(outcome)
        self.finished[tensor.name] = outcome
        self._done += self.source.tensors[tensor.name].nbytes
        if time.monotonic() - self._synced > _SYNC_SECONDS:
            self.sync()

    def sync(self) -> None:
        """Wait until what is finished would outlive a power cut."""
        self.staging.sync()
        self._synced = time.monotonic()

    def end(self) -> None:
        """Tell that everything is written."""
        self.progress("quantize", self._total, self._total, "")
