"""The calibration text that `halfpint quantize` shows a model, for peers that are to see the very same tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import halfpint
from halfpint.calibration.text import Window
from halfpint.pipeline.looking.measurement import calibration_windows
from halfpint.pipeline.options import CalibrationOptions


def windows_of(model: str | Path, options: CalibrationOptions) -> list[Window]:
    """Windows of tokens, as these options give them."""
    checkpoint = halfpint.open_model(model)
    try:
        return calibration_windows(checkpoint, options)
    finally:
        checkpoint.close()


def save_tokens(windows: list[Window], path: Path) -> None:
    """Write windows for a peer that runs in an environment of its own: one array of token ids each, in order."""
    np.savez(path, **{f"{number:06d}": np.array(window.token_ids) for number, window in enumerate(windows)})
