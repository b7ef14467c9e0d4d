"""How far quantized models are from their original, on text that the original has to read only once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import halfpint
from halfpint.calibration.text import Window
from halfpint.measuring.comparison import Reading, compare, read
from halfpint.measuring.metrics import Quality, clustered_mean
from halfpint.pipeline.measurement import held_out_windows
from halfpint.pipeline.options import MeasureOptions


@dataclass(frozen=True)
class Score:
    """One candidate: its quality, and the KL of every token to compare it token by token with another.

    Attributes
    ----------
    quality : Quality
    kl : float64 [tokens]
    windows : int64 [tokens]
        Which window each token belongs to.
    tensor_bytes : int
        Of all tensors, headers not counted.
    formats : dict of str to str
        Format of every matrix by its Hugging Face name.
    """

    quality: Quality
    kl: NDArray[np.float64]
    windows: NDArray[np.int64]
    tensor_bytes: int
    formats: dict[str, str]


class Yardstick:
    """An original model that has read some held-out text; candidates are held against it."""

    def __init__(self, model: str | Path, texts: Sequence[Path] = (), tokens: int = 0) -> None:
        self.model = model
        checkpoint = halfpint.open_model(model)
        try:
            self.windows: list[Window] = held_out_windows(checkpoint, MeasureOptions(texts=texts, tokens=tokens))
            self._reading: Reading = read(checkpoint, self.windows)
        finally:
            checkpoint.close()

    def score(self, candidate: Path) -> Score:
        """Compare a candidate with the original, as `halfpint measure` does."""
        checkpoint = halfpint.open_model(candidate)
        try:
            tally = compare(read(checkpoint, self.windows), self._reading, self.windows)
            specs = checkpoint.tensors.values()
            return Score(
                quality=tally.quality(),
                kl=np.concatenate([scores.kl for scores in tally.scores]),
                windows=np.concatenate(tally.window_numbers),
                tensor_bytes=sum(spec.nbytes for spec in specs),
                formats={s.name: s.format.name if s.format else s.dtype for s in specs if len(s.shape) == 2},
            )
        finally:
            checkpoint.close()


@dataclass(frozen=True)
class Ratio:
    """KL of one candidate as a part of another's, with its standard error over windows."""

    value: float
    stderr: float


def kl_ratio(ours: Score, theirs: Score) -> Ratio:
    """Ratio of two mean KLs on the same tokens.

    Both rise and fall together from text to text, so the ratio is known better than either: its error is that of the
    linearised ratio, a window being one draw.
    """
    denominator = float(theirs.kl.mean())
    if denominator == 0:
        return Ratio(math.nan, math.nan)
    ratio = float(ours.kl.mean()) / denominator
    return Ratio(ratio, clustered_mean((ours.kl - ratio * theirs.kl) / denominator, ours.windows).stderr)
