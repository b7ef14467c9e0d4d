"""What was made of files, kept as long as the files are the same: a tokenizer takes seconds to parse."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

_Made = TypeVar("_Made")

Signature = tuple[tuple[str, int, int, int, int], ...]
"""Name, size, times and inode of each file."""


class Latest(Generic[_Made]):
    """The results of the latest calls.

    Parameters
    ----------
    count : int
        How many are kept.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._lock = threading.Lock()
        self._made: dict[Hashable, _Made] = {}

    def get(self, key: Hashable, make: Callable[[], _Made]) -> _Made:
        """Give what was made under this key, or make it; an error is not kept."""
        with self._lock:
            if key in self._made:
                self._made[key] = self._made.pop(key)
                return self._made[key]
        made = make()
        with self._lock:
            self._made[key] = made
            while len(self._made) > self._count:
                del self._made[next(iter(self._made))]
        return made


def signature(paths: Sequence[Path]) -> Signature:
    """Tell files from all others, and from themselves after a change; those that are not there are left out."""
    found = []
    for path in paths:
        try:
            status = path.stat()
        except OSError:
            continue
        found.append((str(path), status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino))
    return tuple(found)


def folder_key(folder: Path, config: Mapping[str, Any]) -> Hashable:
    """Tell a folder's side files and configuration from all others."""
    words = json.dumps(dict(config), sort_keys=True, default=repr)
    return str(folder.resolve()), signature(sorted(folder.glob("*.json*")) + sorted(folder.glob("*.jinja"))), words
