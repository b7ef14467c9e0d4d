"""Opening a model by the name that a user gives."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from halfpint.checkpoints import open_checkpoint
from halfpint.checkpoints.checkpoint import Checkpoint
from halfpint.errors import UsageError

DEMO = "demo"


def demo_folder() -> Path:
    """Where the embedded model is."""
    return Path(str(resources.files("halfpint") / "demo_model"))


def open_model(name: str | Path) -> Checkpoint:
    """Open a checkpoint; `demo` is the embedded model (a folder of that name is `./demo`).

    Raises
    ------
    UsageError
        If the name is empty, which as a path would be the folder one is in.
    """
    if not str(name):
        raise UsageError("the model's name is empty; give a folder, a file, or `demo`")
    return open_checkpoint(demo_folder() if name == DEMO else Path(name))
