"""Opening a model by the name that a user gives."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from halfpint.checkpoints import open_checkpoint
from halfpint.checkpoints.checkpoint import Checkpoint

DEMO = "demo"


def demo_folder() -> Path:
    """Where the embedded model is."""
    return Path(str(resources.files("halfpint") / "demo_model"))


def open_model(name: str | Path) -> Checkpoint:
    """Open a checkpoint; `demo` is the embedded model (a folder of that name is `./demo`)."""
    return open_checkpoint(demo_folder() if name == DEMO else Path(name))
