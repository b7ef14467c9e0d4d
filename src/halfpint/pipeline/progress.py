"""How a long job tells what it is doing."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int, str], None]
"""(stage, done, in all, what is being worked on); most stages count bytes."""


def silent(stage: str, done: int, total: int, detail: str) -> None:
    """Report progress to nobody."""
