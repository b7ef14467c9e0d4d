"""The whole story on the embedded model: shrink it, measure it, let it speak."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from halfpint.calibration.text import Window
from halfpint.checkpoints import CONTAINERS, open_checkpoint
from halfpint.checkpoints.checkpoint import Checkpoint
from halfpint.formats.plain import F32
from halfpint.measuring.comparison import Reading, compare, read, steps
from halfpint.measuring.metrics import Quality
from halfpint.models.opening import DEMO, open_model
from halfpint.pipeline.job import quantization
from halfpint.pipeline.job.calibrated_solving import Calibration
from halfpint.pipeline.looking.measurement import gather, held_out_windows
from halfpint.pipeline.options import CalibrationOptions, GenerateOptions, MeasureOptions, Progress, silent
from halfpint.pipeline.results import DemoEntry, DemoResult
from halfpint.pipeline.running.text_generation import TextGenerator
from halfpint.planning.planner import Wish, make_plan
from halfpint.plans import Rule

PROMPT = "The old house stood at the end of the lane, and"
BITS = (8, 4, 2)
# The embedded model has read novels and nothing else: only such text says anything of it.
KINDS = frozenset({"prose.txt", "dialogue.txt"})
# Fewer than a job of its own would take, for the sake of who waits.
CALIBRATION_TOKENS = 8192
# Enough for error bars that tell the sizes apart, few enough to wait for.
TOKENS = 6144
# The same seed for all, so that the texts part only where the weights do.
_SPEECH = GenerateOptions(max_tokens=60, temperature=0.6, top_k=30, top_p=0.95, seed=7)


def demonstrate(progress: Progress = silent) -> DemoResult:
    """Quantize the embedded model to several sizes and compare each with the original.

    Returns
    -------
    DemoResult
        Sizes are those of whole GGUF files, metadata included; the original's is that of a 32-bit one.
    """
    started = time.monotonic()
    source = open_model(DEMO)
    try:
        plain = make_plan(source, CONTAINERS["gguf"], Wish(rules=(Rule("*", F32),)))
        windows = held_out_windows(source, MeasureOptions(tokens=TOKENS, window_tokens=256), KINDS)
        shrunk = make_plan(source, CONTAINERS["gguf"], Wish(bits=BITS[0], calibrate=True))
        text = gather(source, shrunk, CalibrationOptions(tokens=CALIBRATION_TOKENS))
        stage = _Stage(source, windows, read(source, windows), text, progress)
        original = stage.entry("32-bit", source, plain.nbytes)
        with tempfile.TemporaryDirectory(prefix="halfpint-demo-") as folder:
            entries = [stage.quantized(bits, Path(folder)) for bits in BITS]
    finally:
        source.close()
    return DemoResult(PROMPT, plain.parameters, original, tuple(entries), time.monotonic() - started)


@dataclass(frozen=True, slots=True)
class _Stage:
    """What every size is held against."""

    source: Checkpoint
    windows: Sequence[Window]
    reference: Reading
    calibration: Calibration | None
    progress: Progress

    def quantized(self, bits: int, folder: Path) -> DemoEntry:
        """Make one size in a folder, and describe it."""
        plan = make_plan(self.source, CONTAINERS["gguf"], Wish(bits=bits, calibrate=True))
        target = folder / f"{bits}-bit.gguf"
        path = quantization.quantize(self.source, target, plan, self.calibration, self.progress).output
        result = open_checkpoint(path)
        try:
            return self.entry(f"{bits}-bit", result, result.weight_bytes)
        finally:
            result.close()

    def entry(self, name: str, model: Checkpoint, nbytes: int) -> DemoEntry:
        """Let a model speak, and compare it with the original."""
        spoken = TextGenerator(model).continue_text(PROMPT, _SPEECH)
        parameters = sum(spec.parameters for spec in self.source.tensors.values())
        return DemoEntry(
            name=name,
            nbytes=nbytes,
            bits_per_weight=8 * nbytes / parameters,
            quality=self._quality(name, model),
            decode_tokens_per_second=spoken.decode_tokens_per_second,
            sample=spoken.text,
        )

    def _quality(self, name: str, model: Checkpoint) -> Quality:
        total, done = steps(self.windows, model), 0

        def advance(tokens: int) -> None:
            nonlocal done
            done += tokens
            self.progress("measure", done, total, name)

        reading = self.reference if model is self.source else read(model, self.windows, advance)
        return compare(reading, self.reference, self.windows).quality()
