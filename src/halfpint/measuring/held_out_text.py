"""The held-out text: never used to calibrate."""

from __future__ import annotations

from importlib import resources

from halfpint.calibration.text import Render, TextSource, plain_conversation, read_folder


def held_out(render: Render = plain_conversation) -> list[TextSource]:
    """The measuring text that comes with the package, one source per kind."""
    return read_folder(resources.files("halfpint.measuring") / "data", render)
