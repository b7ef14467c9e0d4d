"""What a command writes beside its result must not take the place of anything that it reads, or makes."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from halfpint.checkpoints.gguf_header import MAGIC
from halfpint.errors import UsageError
from halfpint.models.opening import DEMO

_WRITTEN = {"log": "--log", "events": "--events", "map_file": "--map", "save": "--save"}
"""Parameters that name a file to write, and the option of each."""

_HELD = ("model", "against", "output", "plan_file", "texts", "prompt_cache")
"""Parameters that name what is read, or the result itself."""

# A file of safetensors begins with the length of its header, which is JSON.
_LENGTH_BYTES = 8
_PATIENCE_SECONDS = 3.0


class Command(click.Command):
    """A command that looks at its places before it runs."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run, if nothing is in another's way."""
        check_places(ctx.params)
        return super().invoke(ctx)


def check_places(parameters: Mapping[str, Any]) -> None:
    """Refuse files that would be written over, or into, what the command reads or makes.

    Parameters
    ----------
    parameters : Mapping of str to Any
        Of a command, by the names in `click.Context.params`.

    Raises
    ------
    UsageError
        If two are in one place, or a checkpoint is in the place of a file that is to be written.
    """
    written = {option: parameters[name] for name, option in _WRITTEN.items() if parameters.get(name) is not None}
    held = [*_places(parameters)]
    cache = parameters.get("prompt_cache")
    if cache is not None and Path(cache).exists() and not Path(cache).is_file() and not Path(cache).is_dir():
        raise UsageError(f"--prompt-cache {cache}: is no regular file; name one")
    for option, path in written.items():
        _check_kind(option, path)
    for option, path in written.items():
        for other in held:
            if _meet(path, other):
                raise UsageError(f"{option} {path}: lies in the place of {other}; name another file")
        if _is_checkpoint(path):
            raise UsageError(f"{option} {path}: is a checkpoint, which is not written over; name another file")
        held.append(path)


def _check_kind(option: str, path: Path) -> None:
    """Refuse what cannot be written like a file: devices of blocks, sockets, and pipes that wait for a reader."""
    if path.is_socket() or path.is_block_device():
        raise UsageError(f"{option} {path}: is no regular file; name one")
    if path.is_fifo() and not _has_reader(path):
        raise UsageError(f"{option} {path}: is a pipe that no program reads; start its reader, or name a file")


def _has_reader(pipe: Path) -> bool:
    """Whether a program reads a named pipe, or begins to within `_PATIENCE_SECONDS`.

    The end that is opened for that stays open: if it were closed, the reader would see the end of the pipe.
    """
    until = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            if time.monotonic() > until:
                return False
            time.sleep(0.02)
        else:
            return True


def _places(parameters: Mapping[str, Any]) -> Iterator[Path]:
    for name in _HELD:
        value = parameters.get(name)
        for each in value if isinstance(value, tuple) else (value,):
            if each is not None and str(each) and str(each) != DEMO:
                yield Path(each)


def _meet(written: Path, held: Path) -> bool:
    """Whether a file to be written is another, or lies in it, by whatever names and links."""
    try:
        place, other = written.resolve(), held.resolve()
        if place == other or other in place.parents:
            return True
        return written.exists() and any(written.samefile(file) for file in _files(held))
    except (OSError, RuntimeError):  # nothing is there, or links lead in a circle: opening it will tell
        return False


def _files(held: Path) -> list[Path]:
    return [path for path in held.iterdir() if path.exists()] if held.is_dir() else [held] if held.exists() else []


def _is_checkpoint(path: Path) -> bool:
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            head = file.read(_LENGTH_BYTES + 1)
            size = path.stat().st_size
    except OSError:
        return False
    length = int.from_bytes(head[:_LENGTH_BYTES], "little")
    return head.startswith(MAGIC) or (head[_LENGTH_BYTES:] == b"{" and length < size)
