"""Outputs written aside: nothing stands under the final name until all of it is there.

The output grows as `.NAME.partial-PID` beside its final place and is renamed at the end, after everything has
reached the disk. A process that dies leaves only that partial; the next one to write the same name removes it,
after making sure by a lock that nobody is writing it any more.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from pathlib import Path

from halfpint.errors import CheckpointError, RoomError, UsageError


class Staging:
    """A file or folder being written aside.

    Attributes
    ----------
    target : Path
        Where it will stand.
    path : Path
        Where it is written: an empty file or folder, which exists once this object does.
    """

    __slots__ = ("_lock", "_replace", "path", "target")

    def __init__(self, target: Path, *, folder: bool, replace: bool = False) -> None:
        """Begin.

        Parameters
        ----------
        target : Path
            The final name. Its parent folder must exist.
        folder : bool
            Whether a folder is written, or a file.
        replace : bool
            Whether something may stand there already (an empty folder always may).

        Raises
        ------
        UsageError
            If the target exists, or its parent does not.
        CheckpointError
            If the partial cannot be made.
        """
        self._lock = -1
        self.target = Path(os.path.abspath(target))  # noqa: PTH100 - links in the path must stay as they are
        self._replace = replace
        self._check_target(folder)
        self.path = self.target.parent / f".{self.target.name}.partial-{os.getpid()}"
        _remove_stale(self.target)
        if os.path.lexists(self.path):
            raise UsageError(f"{self.target} is already being written by this process")
        try:
            if folder:
                self.path.mkdir()
            else:
                self.path.touch(exist_ok=False)
            self._lock = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise CheckpointError(f"{self.path} cannot be written: {error.strerror}") from error

    def publish(self) -> Path:
        """Sync the partial to disk and give it its final name.

        Returns
        -------
        Path
            The target.

        Raises
        ------
        UsageError
            If something has appeared under the final name meanwhile.
        CheckpointError
            If it cannot be synced or renamed; the partial is still there then.
        """
        folder = self.path.is_dir()
        self._check_target(folder)
        try:
            _sync(self.path)
            replaced = self._set_aside() if folder else None
            self.path.rename(self.target)
            _sync_one(self.target.parent)
        except OSError as error:
            raise CheckpointError(f"{self.target} cannot be put in place: {error.strerror}") from error
        if replaced is not None:
            shutil.rmtree(replaced, ignore_errors=True)
        self._unlock()
        return self.target

    def abandon(self) -> None:
        """Remove the partial; safe to call at any time, also after `publish`."""
        if self._lock >= 0:
            _remove(self.path)
            self._unlock()

    def _check_target(self, folder: bool) -> None:
        if not self.target.parent.is_dir():
            raise UsageError(f"the folder {self.target.parent} does not exist; make it first")
        if not os.path.lexists(self.target):
            return
        if self.target.is_symlink() or self.target.is_dir() != folder:
            kind = "folder" if folder else "file"
            raise UsageError(f"{self.target} exists and is not a {kind}; give another output name")
        empty_folder = folder and not any(self.target.iterdir())
        if not empty_folder and not self._replace:
            raise UsageError(f"{self.target} exists already; give another output name, or remove it first")

    def _set_aside(self) -> Path | None:
        """Move a full folder out of the way: only an empty one can be replaced by a rename."""
        if not self.target.is_dir() or not any(self.target.iterdir()):
            return None
        replaced = self.target.parent / f".{self.target.name}.replaced-{os.getpid()}"
        self.target.rename(replaced)
        return replaced

    def _unlock(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def check_apart(target: Path, source: Path) -> None:
    """Refuse an output that would touch its own source.

    Raises
    ------
    UsageError
        If the target is the source, lies in its folder, or contains it.
    """
    target, source = target.resolve(), source.resolve()
    if target == source or source in target.parents or target in source.parents:
        raise UsageError(f"the output {target} would lie in or over the source {source}; give another place")


def check_room(folder: Path, nbytes: int) -> None:
    """Refuse an output that the disk cannot hold, before any of it is written.

    Reserving the space and failing would fill the disk for everybody else first.

    Raises
    ------
    RoomError
        Saying how many bytes are free, and how many are needed.
    """
    status = os.statvfs(folder)
    free = status.f_bavail * status.f_frsize
    if nbytes > free:
        raise RoomError(
            f"the output needs {nbytes} bytes and {folder} has {free} free; free some space, "
            "give another place, or choose fewer bits"
        )


def write_failure(path: Path, error: OSError) -> RoomError | CheckpointError:
    """Say in our words why a file could not be written; the caller raises it."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
        return RoomError(f"no room for {path}: {error.strerror}; free some space and start again")
    return CheckpointError(f"{path} cannot be written: {error.strerror}")


def _remove_stale(target: Path) -> None:
    """Remove partials of the same target that no process holds any more."""
    prefix = f".{target.name}.partial-"
    for path in target.parent.iterdir():
        number = path.name[len(prefix) :]
        if not path.name.startswith(prefix) or not number.isdecimal() or path.is_symlink():
            continue
        # The lock tells of writers in other containers, whose process numbers mean nothing here; the number
        # tells of a writer that has made its partial but not locked it yet.
        if (int(number) == os.getpid() or not _alive(int(number))) and not _locked(path):
            _remove(path)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _locked(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Wait until a file, or a folder and all in it, is on the disk."""
    if path.is_dir():
        for child in path.iterdir():
            _sync(child)
    _sync_one(path)


def _sync_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
