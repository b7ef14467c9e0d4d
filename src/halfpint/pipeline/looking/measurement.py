"""Measuring as a verb does it: text, tokens, and the sums at the end."""

from __future__ import annotations

import random
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from halfpint.calibration.text import Render, TextSource, Window, bundled, cut, plain_conversation, read_files
from halfpint.checkpoints.checkpoint import Checkpoint
from halfpint.errors import CheckpointError, UnsupportedError
from halfpint.families import find
from halfpint.measuring.comparison import Reading, check_vocabularies, compare, known_config, read, steps
from halfpint.measuring.held_out_text import held_out
from halfpint.pipeline.job.calibrated_solving import Calibration, is_needed
from halfpint.pipeline.options import CalibrationOptions, MeasureOptions, Progress, silent
from halfpint.pipeline.results import Measurement, Speech
from halfpint.plans import Plan
from halfpint.tokenization import Tokenizer, load_tokenizer

# Without --tokens, as many as these operations allow on both models, which is minutes on a laptop, and never so few
# that the error bars say nothing.
_OPERATIONS = 3e13
_FEWEST_TOKENS = 2048
_MOST_TOKENS = 1_000_000

# Second moments have as many unknowns as the widest weight has columns, squared: with 64 tokens for each column small
# models lose half of what they lose with 10. Large ones would take hours.
_TOKENS_PER_COLUMN = 64
_FEWEST_CALIBRATION_TOKENS = 8192
_MOST_CALIBRATION_TOKENS = 65_536
_MOST_IN_LARGE_MODELS = 32_768
_LARGE_PARAMETERS = 100_000_000
CALIBRATION_WINDOW = 256
"""Tokens of a window of the calibration text; fewer where the model's context is shorter."""
# A vocabulary of 105 words makes 0.91 tokens of a byte of the bundled text, one of 2048 words 0.48.
_TOKENS_PER_BYTE = 0.6
_BUNDLED = CalibrationOptions()


def measure_checkpoints(
    candidate: Checkpoint,
    reference: Checkpoint,
    windows: Sequence[Window],
    progress: Progress = silent,
    original: Reading | None = None,
) -> Measurement:
    """Compare an open candidate with its open reference on text that `held_out_windows` gave.

    Parameters
    ----------
    candidate, reference : Checkpoint
    windows : sequence of Window
    progress : Progress
    original : Reading, optional
        What the reference made of the same windows, when that was read before.

    Returns
    -------
    Measurement
    """
    started = time.monotonic()
    check_vocabularies(candidate, reference)
    total = steps(windows, *([candidate] if original is not None else [candidate, reference]))
    done = 0

    def advance(tokens: int) -> None:
        nonlocal done
        done += tokens
        progress("measure", done, total, "")

    progress("measure", 0, total, "")
    reading = read(candidate, windows, advance)
    tally = compare(reading, original or read(reference, windows, advance), windows)
    parameters = sum(spec.parameters for spec in reference.tensors.values())
    return Measurement(
        quality=tally.quality(),
        by_source={source: tally.quality(source) for source in sorted(tally.sources)},
        nbytes=candidate.weight_bytes,
        reference_bytes=reference.weight_bytes,
        bits_per_weight=8 * candidate.weight_bytes / parameters,
        seconds=time.monotonic() - started,
    )


def held_out_windows(reference: Checkpoint, options: MeasureOptions, kinds: Collection[str] = ()) -> list[Window]:
    """Text to measure on, in tokens of the reference model; of the bundled text only these kinds, if any are named."""
    config = known_config(reference)
    tokenizer = load_tokenizer(reference)
    render = conversation_renderer(tokenizer)
    sources = read_files(options.texts, render) if options.texts else held_out(render)
    if kinds:
        sources = [source for source in sources if source.name in kinds]
    return cut(tokenizer, sources, min(options.window_tokens, config.max_positions), _most_tokens(reference, options))


def held_out_tokens(reference: Checkpoint, options: MeasureOptions) -> int:
    """About how many tokens `held_out_windows` gives of the bundled text, within a half; tokenizes nothing."""
    there = _TOKENS_PER_BYTE * sum(len(source.text.encode()) for source in held_out())
    return int(min(_most_tokens(reference, options), there))


def _most_tokens(reference: Checkpoint, options: MeasureOptions) -> int:
    parameters = sum(spec.parameters for spec in reference.tensors.values())
    return options.tokens or int(min(_MOST_TOKENS, max(_FEWEST_TOKENS, _OPERATIONS / (4 * parameters))))


def speech(checkpoint: Checkpoint) -> Speech:
    """How one talks with a model: in its chat template, by texts that it continues, or not at all."""
    if find(checkpoint.config) is None:
        return ""
    try:
        tokenizer = load_tokenizer(checkpoint)
    except UnsupportedError:
        return ""
    return "generate" if tokenizer.chat_template is None else "chat"


def reads_text(checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint brings a tokenizer of a kind that is known; loads it to tell."""
    try:
        load_tokenizer(checkpoint)
    except UnsupportedError:
        return False
    return True


def gather(checkpoint: Checkpoint, plan: Plan, options: CalibrationOptions = _BUNDLED) -> Calibration | None:
    """The calibration text for a plan, in tokens of the model; None when none of its solvers looks at text."""
    return Calibration(calibration_windows(checkpoint, options)) if is_needed(plan) else None


def calibration_windows(checkpoint: Checkpoint, options: CalibrationOptions, tokens: int = 0) -> list[Window]:
    """Text to calibrate on, in tokens of the model; `tokens` goes before those of the options when it is not 0."""
    config = known_config(checkpoint)
    tokenizer = load_tokenizer(checkpoint)
    render = conversation_renderer(tokenizer)
    sources = read_files(options.texts, render) if options.texts else bundled(render)
    limit = tokens or options.tokens or calibration_tokens(checkpoint)
    begun = [_begun(source, options.seed) for source in sources]
    return cut(tokenizer, begun, min(CALIBRATION_WINDOW, config.max_positions), limit)


def calibration_tokens(checkpoint: Checkpoint) -> int:
    """How many tokens to calibrate on when nobody says: by the widest weight and the model's size."""
    matrices = [spec for spec in checkpoint.tensors.values() if len(spec.shape) == 2]
    widest = max((spec.shape[1] for spec in matrices), default=0)
    large = sum(spec.parameters for spec in checkpoint.tensors.values()) > _LARGE_PARAMETERS
    most = _MOST_IN_LARGE_MODELS if large else _MOST_CALIBRATION_TOKENS
    return min(most, max(_FEWEST_CALIBRATION_TOKENS, _TOKENS_PER_COLUMN * widest))


def _begun(source: TextSource, seed: int) -> TextSource:
    """The same text from another place on, its beginning put behind its end; seed 0 leaves it."""
    if not seed:
        return source
    place = random.Random(f"{seed} {source.name}").randrange(len(source.text))
    return TextSource(source.name, source.text[place:] + source.text[:place])


def conversation_renderer(tokenizer: Tokenizer) -> Render:
    """The model's own chat template where there is one, else plain lines.

    A template may refuse or drop what another model takes (a system message, say); then its system messages are told
    by the user, and what is refused even so is plain lines.

    Raises
    ------
    UnsupportedError
        When a conversation is rendered by a template that drops what the user says.
    """
    if tokenizer.chat_template is None:
        return plain_conversation

    def render(messages: Sequence[Mapping[str, Any]]) -> str:
        has_system = any(message.get("role") == "system" for message in messages)
        told = without_system(messages)
        for attempt in (told,) if has_system and not tokenizer.shows_system() else (messages, told):
            try:
                return tokenizer.apply_chat_template(attempt, add_generation_prompt=False)
            except CheckpointError:
                continue
        return plain_conversation(messages)

    return render


def without_system(messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The same conversation with what its system messages say put before the first turn of the user."""
    told = "\n\n".join(str(message.get("content", "")) for message in messages if message.get("role") == "system")
    rest = [dict(message) for message in messages if message.get("role") != "system"]
    if told and rest:
        said = rest[0].get("content") or ""
        parts = isinstance(said, list)
        rest[0]["content"] = [{"type": "text", "text": told}, *said] if parts else f"{told}\n\n{said}"
    return list(rest)
