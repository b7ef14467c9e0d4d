"""Two models, the same text, one streamed pass: one block in memory at a time, no logits on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from halfpint.calibration.text import Window
from halfpint.checkpoints.checkpoint import Checkpoint
from halfpint.engine.block import load_block
from halfpint.engine.decoder import Ends, load_ends
from halfpint.errors import UnsupportedError, UsageError
from halfpint.families import ModelConfig, find, read_config
from halfpint.measuring.metrics import Tally, score
from halfpint.tensors import FloatArray

# Tokens that go through a block at a time: enough to make its products worth decoding a weight for.
BATCH_TOKENS = 2048
# Logits that are looked at together, as numbers: 4 million are 32 MB in float64.
LOGITS_AT_A_TIME = 4_000_000

Advance = Callable[[int], None]
"""Called with the number of tokens that have gone through one more block of one of the models."""


def unheard(tokens: int) -> None:
    """Report advance to nobody."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Windows of one length, to go through a model together.

    Attributes
    ----------
    numbers : tuple of int
        Which windows.
    ids : int64 [sequences, tokens]
    """

    numbers: tuple[int, ...]
    ids: NDArray[np.int64]


def batches(windows: Sequence[Window]) -> list[Batch]:
    """Group windows of equal length, `BATCH_TOKENS` at a time."""
    by_length: dict[int, list[int]] = {}
    for number, window in enumerate(windows):
        by_length.setdefault(len(window.token_ids), []).append(number)
    made = []
    for length, numbers in by_length.items():
        step = max(1, BATCH_TOKENS // length)
        for start in range(0, len(numbers), step):
            members = numbers[start : start + step]
            ids = np.array([windows[number].token_ids for number in members], dtype=np.int64)
            made.append(Batch(tuple(members), ids))
    return made


def steps(candidate: Checkpoint, reference: Checkpoint, windows: Sequence[Window]) -> int:
    """How many token-blocks `compare` will report to `advance`: the whole of its work."""
    tokens = sum(len(window.token_ids) for window in windows)
    return tokens * (known_config(candidate).layers + known_config(reference).layers)


def known_config(checkpoint: Checkpoint) -> ModelConfig:
    """Configuration of a model that the engine can run.

    Raises
    ------
    UnsupportedError
        If its family is not known.
    """
    if find(checkpoint.config) is None:
        kind = checkpoint.config.get("model_type", "none is named")
        raise UnsupportedError(f"{checkpoint.path}: the engine does not know this family of models ({kind})")
    return read_config(checkpoint.config)


def compare(
    candidate: Checkpoint, reference: Checkpoint, windows: Sequence[Window], advance: Advance = unheard
) -> Tally:
    """Score a candidate against its reference on every token of some text.

    Parameters
    ----------
    candidate, reference : Checkpoint
        Of one vocabulary.
    windows : sequence of Window
        Each at least two tokens long.
    advance : function of int

    Returns
    -------
    Tally
        One score for every token but the first of each window.

    Raises
    ------
    UsageError
        If the vocabularies differ: there is nothing to compare then.
    UnsupportedError
        If a model is of no known family.
    """
    first, second = known_config(candidate), known_config(reference)
    if first.vocab_size != second.vocab_size:
        raise UsageError(
            f"{candidate.path} has {first.vocab_size} tokens and {reference.path} has {second.vocab_size}: "
            "they are no two versions of one model"
        )
    work = batches(windows)
    candidate_ends, candidate_hidden = _last_hidden(candidate, first, work, advance)
    reference_ends, reference_hidden = _last_hidden(reference, second, work, advance)
    tally = Tally()
    for index, batch in enumerate(work):
        for row, number in enumerate(batch.numbers):
            targets = batch.ids[row, 1:]
            for part in _parts(len(targets), first.vocab_size):
                scores = score(
                    reference_ends.head(reference_hidden[index][row, part]),
                    candidate_ends.head(candidate_hidden[index][row, part]),
                    targets[part],
                )
                tally.add(number, windows[number].source, scores)
    return tally


def _last_hidden(
    checkpoint: Checkpoint, config: ModelConfig, work: Sequence[Batch], advance: Advance
) -> tuple[Ends, list[FloatArray]]:
    """Hidden states after the last block, float32 [sequences, tokens, hidden] for every batch."""
    ends = load_ends(checkpoint, config)
    hidden = [ends.embed(batch.ids) for batch in work]
    for layer in range(config.layers):
        block = load_block(checkpoint, config, layer)
        for index, state in enumerate(hidden):
            hidden[index] = block.forward(state)
            advance(state.shape[0] * state.shape[1])
    return ends, hidden


def _parts(tokens: int, vocabulary: int) -> Iterator[slice]:
    step = max(1, LOGITS_AT_A_TIME // vocabulary)
    for start in range(0, tokens, step):
        yield slice(start, min(start + step, tokens))
