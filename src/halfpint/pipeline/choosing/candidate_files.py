"""Making a file from a plan and measuring it: once for a plain job, several times where files are compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from halfpint.calibration.text import Window
from halfpint.checkpoints import open_checkpoint
from halfpint.checkpoints.checkpoint import Checkpoint
from halfpint.measuring.comparison import Reading, read
from halfpint.pipeline.job import quantization
from halfpint.pipeline.job.quantization import JobSettings, Written
from halfpint.pipeline.looking.measurement import gather, held_out_windows, measure_checkpoints
from halfpint.pipeline.options import Progress, QuantizeOptions
from halfpint.pipeline.results import Measurement, PlanResult


@dataclass(frozen=True, slots=True)
class CandidateFile:
    """A file, the plan behind it, and what it keeps.

    Attributes
    ----------
    planned : PlanResult
    written : Written
    measurement : Measurement or None
    """

    planned: PlanResult
    written: Written
    measurement: Measurement | None


@dataclass(slots=True)
class CandidateBuilder:
    """An open model, and everything that every file made of it is held against.

    Attributes
    ----------
    source : Checkpoint
    options : QuantizeOptions
    progress : Progress
    windows : list of Window or None
        Held-out text; None when nothing is compared.
    """

    source: Checkpoint
    options: QuantizeOptions
    progress: Progress
    windows: Sequence[Window] | None
    _original: list[Reading] = field(default_factory=list)

    @classmethod
    def of(cls, source: Checkpoint, options: QuantizeOptions, progress: Progress) -> CandidateBuilder:
        """Find whatever is wrong with text, tokenizer or family before the work, not after."""
        windows = None if options.measure is None else held_out_windows(source, options.measure)
        return cls(source, options, progress, windows)

    def make(self, planned: PlanResult, output: Path, *, again: bool = False) -> CandidateFile:
        """Write what a plan says, read it back, and compare it with the original.

        Parameters
        ----------
        planned : PlanResult
        output : Path
        again : bool
            Whether more files will be compared: what the original made of the text is then kept.
        """
        gathered = gather(self.source, planned.plan, self.options.calibration)
        if gathered is not None:
            stream = replace(gathered.stream, max_activation_bytes=planned.limits.activation_bytes)
            gathered = replace(gathered, stream=stream)
        measured: list[Measurement | None] = []
        settings = JobSettings(
            self.options.fresh,
            planned.limits.slice_weights,
            lambda path: measured.append(self._measured(path, again)),
        )
        written = quantization.quantize(self.source, output, planned.plan, gathered, self.progress, settings)
        return CandidateFile(planned, written, measured[-1])

    def _measured(self, path: Path, again: bool) -> Measurement | None:
        if self.windows is None:
            return None
        if again and not self._original:
            self._original.append(read(self.source, self.windows))
        result = open_checkpoint(path)
        try:
            original = self._original[0] if self._original else None
            return measure_checkpoints(result, self.source, self.windows, self.progress, original)
        finally:
            result.close()
