"""Where the engines are installed.

Each engine has a folder of its own under `HALFPINT_ENGINES`, or under `.engines/` at the root of the
repository when that variable is not set. `install.py` makes these folders.
"""

import json
import os
from pathlib import Path

from engines.install import ENGINES, STAMP

ROOT = Path(__file__).parents[2]


class EngineMissingError(Exception):
    """An engine is not installed; the message says how to install it."""


def engines_folder() -> Path:
    """Return the folder that holds one environment per engine; it need not exist."""
    return Path(os.environ.get("HALFPINT_ENGINES") or ROOT / ".engines").absolute()


def engine_folder(engine: str) -> Path:
    """Return the folder of one engine, installed completely and with the pins of this revision.

    Raises
    ------
    EngineMissingError
        If it is not installed, or if what is installed has other pins.
    """
    folder = engines_folder() / engine
    stamp = folder / STAMP
    command = f"python tests/engines/install.py {engine}"
    if not stamp.is_file():
        raise EngineMissingError(f"{engine} is not installed in {engines_folder()}; run: {command}")
    if json.loads(stamp.read_text()) != ENGINES[engine].pins():
        raise EngineMissingError(f"{engine} in {engines_folder()} has other versions than pinned; run: {command}")
    return folder


def engine_python(engine: str) -> Path:
    """Return the interpreter of an engine that is a Python environment; errors as `engine_folder`."""
    return engine_folder(engine) / "bin" / "python"


def llama_cpp_libraries() -> Path:
    """Return the folder of llama.cpp's shared libraries; errors as `engine_folder`."""
    folder = engine_folder("llama_cpp")
    found = sorted(folder.glob("node_modules/@node-llama-cpp/*/bins/*/libggml-base.so"))
    if not found:
        raise EngineMissingError(f"no libggml-base.so below {folder}; delete the folder and install it again")
    return found[0].parent
