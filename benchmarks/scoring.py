"""How far quantized models are from their original, on text that the original has to read only once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import halfpint
from halfpint.calibration.text import Window, batches
from halfpint.engine.block import load_block
from halfpint.engine.decoder import load_ends
from halfpint.engine.weights import Weight
from halfpint.families import read_config
from halfpint.measuring.comparison import Reading, compare, read
from halfpint.measuring.metrics import Quality, clustered_mean
from halfpint.pipeline.looking.measurement import held_out_windows
from halfpint.pipeline.options import MeasureOptions
from halfpint.tensors import FloatArray


@dataclass(frozen=True)
class Score:
    """One candidate: its quality, and the KL of every token to compare it token by token with another.

    Attributes
    ----------
    quality : Quality
    kl, loss_difference : float64 [tokens]
        The latter is the candidate's loss less the original's, whose mean is the logarithm of the perplexity ratio.
    agrees : bool [tokens]
    windows : int64 [tokens]
        Which window each token belongs to.
    tensor_bytes : int
        Of all tensors, headers not counted.
    formats : dict of str to str
        Format of every matrix by its Hugging Face name.
    """

    quality: Quality
    kl: NDArray[np.float64]
    loss_difference: NDArray[np.float64]
    agrees: NDArray[np.bool_]
    windows: NDArray[np.int64]
    tensor_bytes: int
    formats: dict[str, str]


class Yardstick:
    """An original model that has read some held-out text; candidates are held against it."""

    def __init__(
        self, model: str | Path, texts: Sequence[Path] = (), tokens: int = 0, window_tokens: int = 512
    ) -> None:
        self.model = model
        checkpoint = halfpint.open_model(model)
        try:
            options = MeasureOptions(texts=texts, tokens=tokens, window_tokens=window_tokens)
            self.windows: list[Window] = held_out_windows(checkpoint, options)
            self._reading: Reading = read(checkpoint, self.windows)
        finally:
            checkpoint.close()

    def score(self, candidate: Path) -> Score:
        """Compare a candidate with the original, as `halfpint measure` does."""
        checkpoint = halfpint.open_model(candidate)
        try:
            specs = checkpoint.tensors.values()
            formats = {s.name: s.format.name if s.format else s.dtype for s in specs if len(s.shape) == 2}
            nbytes = sum(spec.nbytes for spec in specs)
            return self._score(read(checkpoint, self.windows), nbytes, formats)
        finally:
            checkpoint.close()

    def score_weights(self, weights: Mapping[str, FloatArray]) -> Score:
        """Compare the original with itself, some of its matrices replaced: no file is written."""
        checkpoint = halfpint.open_model(self.model)

        def replaced(name: str, weight: Weight) -> Weight:
            return weights.get(name, weight)

        try:
            config = read_config(checkpoint.config)
            ends = load_ends(checkpoint, config, replaced)
            hidden = [ends.embed(batch.ids) for batch in batches(self.windows)]
            for layer in range(config.layers):
                block = load_block(checkpoint, config, layer, replaced)
                hidden = [block.forward(state) for state in hidden]
            return self._score(Reading(checkpoint.path, ends, hidden), 0, {})
        finally:
            checkpoint.close()

    def _score(self, reading: Reading, tensor_bytes: int, formats: dict[str, str]) -> Score:
        tally = compare(reading, self._reading, self.windows)
        # In the order of the windows, whatever the order in which batches of equal length were read.
        windows = np.concatenate(tally.window_numbers)
        order = np.argsort(windows, kind="stable")
        differences = [scores.candidate_loss - scores.reference_loss for scores in tally.scores]
        return Score(
            quality=tally.quality(),
            kl=np.concatenate([scores.kl for scores in tally.scores])[order],
            loss_difference=np.concatenate(differences)[order],
            agrees=np.concatenate([scores.agrees for scores in tally.scores])[order],
            windows=windows[order],
            tensor_bytes=tensor_bytes,
            formats=formats,
        )


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
