"""Solving with text: the stream asks for each weight in the model's order, and the job solves, writes and notes it.

What the quantized stream goes on with is read back from the output, so that it is the weight that an engine will load,
and so that weights which an earlier process has finished need no solving.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from halfpint.calibration.activation_store import StreamOptions
from halfpint.calibration.dual_stream import CalibrationReport, Resume, calibrate
from halfpint.calibration.state import FILE_NAME, StreamState
from halfpint.calibration.text import Window
from halfpint.checkpoints import open_checkpoint
from halfpint.checkpoints.checkpoint import Checkpoint
from halfpint.engine.weights import model_tensors
from halfpint.errors import CheckpointError, RoomError
from halfpint.families import Role, read_config
from halfpint.pipeline.job.job_state import JobState
from halfpint.plans import Plan, PlannedTensor
from halfpint.solvers import needs_moments
from halfpint.solvers.statistics import Statistics
from halfpint.tensors import Array, QuantizedTensor

# Saving may take this part of the time at most.
_SAVING_SHARE = 0.05


@dataclass(frozen=True, slots=True)
class Calibration:
    """The text that a job's solvers look at.

    Attributes
    ----------
    windows : sequence of Window
    stream : StreamOptions
        Its folder does not count: activations that do not fit memory wait beside the output.
    save_seconds : float
        Least time between two saved states: what is lost at most, and done again, when the job ends early.
    """

    windows: Sequence[Window]
    stream: StreamOptions = field(default_factory=StreamOptions)
    save_seconds: float = 60.0

    def described(self) -> Mapping[str, Any]:
        """What of it decides about the output, for the job's fingerprint."""
        text = hashlib.sha256()
        for window in self.windows:
            text.update(repr((window.source, len(window.token_ids))).encode())
            text.update(np.array(window.token_ids, "<i8").tobytes())
        tokens = sum(len(window.token_ids) for window in self.windows)
        return {"tokens": tokens, "windows": len(self.windows), "text": {"sha256": text.hexdigest()}}


def is_needed(plan: Plan) -> bool:
    """Whether some tensor of a plan has a solver that looks at text."""
    return any(needs_moments(tensor.solver) for tensor in plan.tensors)


def solve_with_text(work: JobState, calibration: Calibration) -> CalibrationReport:
    """Write every tensor that vectors are multiplied with, each solved for the input that it will really see.

    Parameters
    ----------
    work : JobState
        Tensors of it that are finished are not solved again.
    calibration : Calibration

    Returns
    -------
    CalibrationReport
    """
    wanted = frozenset(tensor.name for tensor in work.plan.tensors if needs_moments(tensor.solver))
    written = open_checkpoint(work.staging.path)
    written.allow_changes()
    try:
        return calibrate(
            work.source,
            calibration.windows,
            wanted,
            _Solving(work, written, {tensor.name: tensor for tensor in work.plan.tensors}).solve,
            replace(calibration.stream, folder=work.staging.folder),
            Resume(_start(work), _Saving(work, calibration.save_seconds).block_finished),
        )
    finally:
        written.close()


@dataclass(frozen=True, slots=True)
class _Solving:
    """How the stream comes to its quantized weights.

    Attributes
    ----------
    work : JobState
    written : Checkpoint
        The output, open while it grows.
    planned : Mapping of str to PlannedTensor
    """

    work: JobState
    written: Checkpoint
    planned: Mapping[str, PlannedTensor]

    def solve(self, name: str, statistics: Statistics | None) -> Array | QuantizedTensor:
        """See to it that a tensor is written, and read it back."""
        if name not in self.planned:
            return self.work.source.read(name)
        self.work.write(self.planned[name], statistics)
        return self.written.read(name)


@dataclass(slots=True)
class _Saving:
    """Saves the stream's state now and then: never in small models, and never so often that it costs much time."""

    work: JobState
    seconds: float
    begun: float = field(default_factory=time.monotonic)
    took: float = 0.0

    def block_finished(self, layer: int, state: StreamState) -> None:
        """Save the state, if it is time to."""
        if time.monotonic() - self.begun < max(self.seconds, self.took / _SAVING_SHARE):
            return
        self.begun = time.monotonic()
        # The weights that the state stands on must be there when it is.
        self.work.sync()
        try:
            state.save(self.work.staging.folder)
        except RoomError as error:
            # The job itself can go on: the output's room is reserved.
            self.work.notes.append(f"the state of the job could not be saved after block {layer}: {error}")
        self.took = time.monotonic() - self.begun


def _start(work: JobState) -> StreamState | None:
    """The state that an earlier process saved, if it is whole and stands on weights that are all there."""
    if not (work.staging.folder / FILE_NAME).exists():
        return None
    try:
        state = StreamState.load(work.staging.folder)
    except CheckpointError:
        return None
    planned = {tensor.name for tensor in work.plan.tensors}
    passed = {
        tensor.name
        for tensor in model_tensors(read_config(work.source.config))
        if tensor.role is Role.EMBEDDING or (tensor.layer is not None and tensor.layer <= state.layer)
    }
    return state if passed & planned <= set(work.finished) else None
