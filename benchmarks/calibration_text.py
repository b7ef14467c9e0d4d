"""The calibration text that `halfpint quantize` shows a model, for peers that are to see the very same tokens."""

from __future__ import annotations

from pathlib import Path

import halfpint
from halfpint.calibration.text import Window, bundled, cut
from halfpint.measuring.comparison import known_config
from halfpint.pipeline.measurement import _CALIBRATION_TOKENS, _CALIBRATION_WINDOW, conversation_renderer
from halfpint.tokenization import load_tokenizer


def calibration_windows(model: str | Path) -> list[Window]:
    """Windows of tokens, as the default options give them."""
    checkpoint = halfpint.open_model(model)
    try:
        tokenizer = load_tokenizer(checkpoint)
        length = min(_CALIBRATION_WINDOW, known_config(checkpoint).max_positions)
        return cut(tokenizer, bundled(conversation_renderer(tokenizer)), length, _CALIBRATION_TOKENS)
    finally:
        checkpoint.close()
