"""Two models, the same text, one streamed pass: one block in memory at a time, no logits on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from halfpint.calibration.text import Window, batches
from halfpint.checkpoints.checkpoint import Checkpoint
from halfpint.engine.block import load_block
from halfpint.engine.decoder import Ends, load_ends
from halfpint.errors import NonFiniteError, UnsupportedError, UsageError
from halfpint.families import ModelConfig, find, read_config
from halfpint.kernels.machine import one_blas_thread
from halfpint.measuring.metrics import Tally, score
from halfpint.tensors import FloatArray

# Logits that are looked at together, as numbers: 4 million are 32 MB in float64.
LOGITS_AT_A_TIME = 4_000_000

Advance = Callable[[int], None]
"""Called with the number of tokens that have gone through one more block of one of the models."""


def unheard(tokens: int) -> None:
    """Report advance to nobody."""


def steps(windows: Sequence[Window], *checkpoints: Checkpoint) -> int:
    """How many token-blocks `read` will report to `advance` for these models: nearly all of the work."""
    tokens = sum(len(window.token_ids) for window in windows)
    return tokens * sum(known_config(checkpoint).layers for checkpoint in checkpoints)


def known_config(checkpoint: Checkpoint) -> ModelConfig:
    """Configuration of a model that the engine can run.

    Raises
    ------
    UnsupportedError
        If its family is not known.
    """
    if find(checkpoint.config) is None:
        kind = checkpoint.config.get("model_type", "none is named")
        kind = kind if checkpoint.config else "there is no config.json beside the weights"
        raise UnsupportedError(f"{checkpoint.path}: the engine does not know this family of models ({kind})")
    return read_config(checkpoint.config)


def check_vocabularies(candidate: Checkpoint, reference: Checkpoint) -> None:
    """Refuse two models that cannot be compared before either has read anything.

    Raises
    ------
    UsageError
        If their vocabularies differ.
    """
    _check_sizes(
        (candidate.path, known_config(candidate).vocab_size), (reference.path, known_config(reference).vocab_size)
    )


def _check_sizes(candidate: tuple[Path, int], reference: tuple[Path, int]) -> None:
    if candidate[1] != reference[1]:
        raise UsageError(
            f"{candidate[0]} has {candidate[1]} tokens and {reference[0]} has {reference[1]}: they are no two versions "
            "of one model"
        )


@dataclass(frozen=True, slots=True)
class Reading:
    """A model that has read some text: everything but the last step, the head.

    Attributes
    ----------
    path : Path
        Of the checkpoint.
    ends : Ends
    hidden : list of float32 [sequences, tokens, hidden]
        After the last block, one array per batch.
    """

    path: Path
    ends: Ends
    hidden: list[FloatArray]


def read(checkpoint: Checkpoint, windows: Sequence[Window], advance: Advance = unheard) -> Reading:
    """Pass text through a model with one block in memory at a time.

    Parameters
    ----------
    checkpoint : Checkpoint
    windows : sequence of Window
        Each at least two tokens long.
    advance : function of int

    Returns
    -------
    Reading
        To be held against another by `compare`.

    Raises
    ------
    UnsupportedError
        If the model is of no known family.
    """
    config = known_config(checkpoint)
    ends = load_ends(checkpoint, config)
    hidden = [ends.embed(batch.ids) for batch in batches(windows)]
    with one_blas_thread():
        for layer in range(config.layers):
            block = load_block(checkpoint, config, layer)
            for index, state in enumerate(hidden):
                hidden[index] = block.forward(state)
                advance(state.shape[0] * state.shape[1])
    return Reading(checkpoint.path, ends, hidden)


def compare(candidate: Reading, reference: Reading, windows: Sequence[Window]) -> Tally:
    """Score a candidate against its reference on every token of the text that both have read.

    Parameters
    ----------
    candidate, reference : Reading
        Of the same windows, and of one vocabulary.
    windows : sequence of Window

    Returns
    -------
    Tally
        One score for every token but the first of each window.

    Raises
    ------
    UsageError
        If the vocabularies differ: there is nothing to compare then.
    """
    vocabulary = candidate.ends.config.vocab_size
    _check_sizes((candidate.path, vocabulary), (reference.path, reference.ends.config.vocab_size))
    tally = Tally()
    with one_blas_thread():
        _score(tally, candidate, reference, windows)
    return tally


def _score(tally: Tally, candidate: Reading, reference: Reading, windows: Sequence[Window]) -> None:
    vocabulary = reference.ends.config.vocab_size
    for index, batch in enumerate(batches(windows)):
        for row, number in enumerate(batch.numbers):
            targets = batch.ids[row, 1:]
            for part in _parts(len(targets), vocabulary):
                scores = score(
                    _finite(reference, reference.ends.head(reference.hidden[index][row, part])),
                    _finite(candidate, candidate.ends.head(candidate.hidden[index][row, part])),
                    targets[part],
                )
                tally.add(number, windows[number].source, scores)


def _finite(model: Reading, logits: FloatArray) -> FloatArray:
    """Logits that are numbers; anything else would make every figure a lie."""
    if not np.isfinite(logits).all():
        raise NonFiniteError(f"{model.path} computes NaN or infinity; `halfpint verify` finds the tensor")
    return logits


def _parts(tokens: int, vocabulary: int) -> Iterator[slice]:
    step = max(1, LOGITS_AT_A_TIME // vocabulary)
    for start in range(0, tokens, step):
        yield slice(start, min(start + step, tokens))
