"""Measuring as a verb does it: text, tokens, and the sums at the end."""

from __future__ import annotations

import time

from halfpint.calibration.text import Render, Window, cut, plain_conversation, read_files
from halfpint.checkpoints.checkpoint import Checkpoint
from halfpint.measuring.comparison import compare, known_config, steps
from halfpint.measuring.text import held_out
from halfpint.pipeline.job import Progress, silent
from halfpint.pipeline.options import MeasureOptions
from halfpint.pipeline.results import Measurement
from halfpint.tokenization import Tokenizer, load_tokenizer

# Without --tokens, as many as these operations allow on both models, which is minutes on a laptop, and never so few
# that the error bars say nothing.
_OPERATIONS = 3e13
_FEWEST_TOKENS = 2048
_MOST_TOKENS = 1_000_000


def measure_checkpoints(
    candidate: Checkpoint, reference: Checkpoint, options: MeasureOptions, progress: Progress = silent
) -> Measurement:
    """Compare an open candidate with its open reference.

    Returns
    -------
    Measurement
    """
    started = time.monotonic()
    windows = held_out_windows(reference, options)
    total = steps(candidate, reference, windows)
    done = 0

    def advance(tokens: int) -> None:
        nonlocal done
        done += tokens
        progress("measure", done, total, "")

    progress("measure", 0, total, "")
    tally = compare(candidate, reference, windows, advance)
    parameters = sum(spec.parameters for spec in reference.tensors.values())
    return Measurement(
        quality=tally.quality(),
        by_source={source: tally.quality(source) for source in sorted(tally.sources)},
        nbytes=candidate.weight_bytes,
        reference_bytes=reference.weight_bytes,
        bits_per_weight=8 * candidate.weight_bytes / parameters,
        seconds=time.monotonic() - started,
    )


def held_out_windows(reference: Checkpoint, options: MeasureOptions) -> list[Window]:
    """Text to measure on, in tokens of the reference model."""
    config = known_config(reference)
    tokenizer = load_tokenizer(reference)
    render = conversation_renderer(tokenizer)
    sources = read_files(options.texts, render) if options.texts else held_out(render)
    parameters = sum(spec.parameters for spec in reference.tensors.values())
    limit = options.tokens or int(min(_MOST_TOKENS, max(_FEWEST_TOKENS, _OPERATIONS / (4 * parameters))))
    return cut(tokenizer, sources, min(options.window_tokens, config.max_positions), limit)


def conversation_renderer(tokenizer: Tokenizer) -> Render:
    """The model's own chat template where there is one, else plain lines."""
    if not tokenizer.has_chat_template:
        return plain_conversation
    return lambda messages: tokenizer.apply_chat_template(messages, add_generation_prompt=False)
