"""Outputs written aside: nothing stands under the final name until all of it is there.

The output grows in a hidden folder beside its final place, `.NAME.halfpint-job/output`, and is renamed at the end,
after everything has reached the disk. Whoever writes there holds a lock, so two processes never write one output. A
process that dies leaves the folder behind: the next one to write the same name either goes on with it (when a journal
there tells how far it is: `halfpint.pipeline.job.journal`) or removes it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from halfpint.errors import CheckpointError, RoomError, UsageError

_LOCK_NAME = "lock"
_OUTPUT_NAME = "output"
# Another process may remove its folder between our making it and our locking it; it does so once.
_ATTEMPTS = 100


class Staging:
    """A file or folder being written aside.

    Attributes
    ----------
    target : Path
        Where it will stand.
    folder : Path
        The hidden folder beside it, locked as long as this object holds it; more may be kept there, such as a
        journal. It vanishes with `publish` and `abandon`.
    path : Path
        Where the output is written: in that folder.
    """

    __slots__ = ("_lock", "_replace", "folder", "path", "target")

    def __init__(self, target: Path, *, replace: bool = False, keep: bool = False) -> None:
        """Take possession of the hidden folder.

        Parameters
        ----------
        target : Path
            The final name. Its parent folder must exist.
        replace : bool
            Whether something may stand there already (an empty folder always may).
        keep : bool
            Whether what an earlier process left in the folder stays, or is removed.

        Raises
        ------
        UsageError
            If the target exists, its parent does not, or another process is writing it.
        CheckpointError
            If the folder cannot be made.
        RoomError
            If the disk is full.
        """
        self._lock = -1
        self.target = Path(os.path.abspath(target))  # noqa: PTH100 - links in the path must stay as they are
        self._replace = replace
        self._check_target()
        self.folder = self.target.parent / f".{self.target.name}.halfpint-job"
        self.path = self.folder / _OUTPUT_NAME
        try:
            self._lock = self._take()
            if not keep or not os.path.lexists(self.path):
                self.clear()
        except OSError as error:
            self.leave()
            raise write_failure(self.folder, error) from error

    def begin(self, *, folder: bool) -> None:
        """Make the output an empty file or folder, unless it is there already.

        Raises
        ------
        UsageError
            If a file stands where a folder is to come, or the other way round.
        CheckpointError
            If it cannot be made.
        RoomError
            If the disk is full.
        """
        self._check_kind(folder)
        try:
            if folder:
                self.path.mkdir(exist_ok=True)
            else:
                self.path.touch()
        except OSError as error:
            raise write_failure(self.path, error) from error

    def sync(self) -> None:
        """Wait until everything in the hidden folder is on the disk, and would be found there.

        Raises
        ------
        RoomError, CheckpointError
            If the disk cannot take it.
        """
        try:
            _sync(self.folder)
            _sync_one(self.folder.parent)
        except OSError as error:
            raise write_failure(self.target, error) from error

    def clear(self) -> None:
        """Remove everything in the hidden folder but the lock."""
        for path in self.folder.iterdir() if self.folder.is_dir() else ():
            if path.name != _LOCK_NAME:
                _remove(path)

    def publish(self) -> Path:
        """Sync the output to disk, give it its final name, and remove the hidden folder.

        Returns
        -------
        Path
            The target.

        Raises
        ------
        UsageError
            If something has appeared under the final name meanwhile.
        RoomError, CheckpointError
            If it cannot be synced or renamed; it is still there then.
        """
        folder = self.path.is_dir()
        self._check_target()
        self._check_kind(folder)
        try:
            _sync(self.path)
            replaced = self._set_aside() if folder else None
            self.path.rename(self.target)
            _sync_one(self.target.parent)
        except OSError as error:
            raise write_failure(self.target, error) from error
        if replaced is not None:
            shutil.rmtree(replaced, ignore_errors=True)
        self.abandon()
        return self.target

    def leave(self) -> None:
        """Give up the lock, and leave everything for a later process; safe to call at any time."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def abandon(self) -> None:
        """Remove the hidden folder; safe to call at any time, also after `publish`."""
        if self._lock < 0:
            return
        self.clear()
        # Whoever makes a new lock file between these two lines finds that the folder stays: it is not empty.
        (self.folder / _LOCK_NAME).unlink(missing_ok=True)
        _remove_empty(self.folder)
        self.leave()

    def _take(self) -> int:
        for _ in range(_ATTEMPTS):
            try:
                self.folder.mkdir(mode=0o700)
            except FileExistsError:
                _check_own(self.folder)
            try:
                # Writable, because network file systems lock nothing else.
                flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
                descriptor = os.open(self.folder / _LOCK_NAME, flags, 0o600)
            except FileNotFoundError:
                continue
            if _holds(descriptor, self.folder / _LOCK_NAME, self.target):
                return descriptor
        raise CheckpointError(f"{self.folder} is made and removed by others all the time; give another output name")

    def _check_target(self) -> None:
        if not self.target.parent.is_dir():
            raise UsageError(f"the folder {self.target.parent} does not exist; make it first")
        if not os.path.lexists(self.target):
            return
        if self.target.is_symlink():
            raise UsageError(f"{self.target} exists and is a link; give another output name")
        empty_folder = self.target.is_dir() and not any(self.target.iterdir())
        if not empty_folder and not self._replace:
            raise UsageError(f"{self.target} exists already; give another output name, or remove it first")

    def _check_kind(self, folder: bool) -> None:
        for path in (self.target, self.path):
            if os.path.lexists(path) and (path.is_symlink() or path.is_dir() != folder):
                kind = "folder" if folder else "file"
                raise UsageError(f"{path} exists and is not a {kind}; give another output name")

    def _set_aside(self) -> Path | None:
        """Move a full folder out of the way: only an empty one can be replaced by a rename."""
        if not self.target.is_dir() or not any(self.target.iterdir()):
            return None
        replaced = self.target.parent / f".{self.target.name}.replaced-{os.getpid()}"
        self.target.rename(replaced)
        return replaced


@contextmanager
def staged(path: Path, begun: Staging | None, *, replace: bool) -> Iterator[Staging]:
    """Give the place where an output is to grow: one that the caller holds, or a new one.

    A new one is abandoned when something goes wrong in the body; a caller's is the caller's to keep or to leave.
    """
    if begun is not None:
        yield begun
        return
    made = Staging(path, replace=replace)
    try:
        yield made
    except BaseException:
        made.abandon()
        raise


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


def missing_bytes(path: Path, nbytes: int) -> int:
    """Bytes that the disk must still give to a file that will have `nbytes`, part of which may be there already."""
    # The unit of st_blocks is 512 bytes, whatever the file system's block is.
    return max(0, nbytes - 512 * path.stat().st_blocks) if path.exists() else nbytes


def write_failure(path: Path, error: OSError) -> RoomError | CheckpointError:
    """Say in our words why a file could not be written; the caller raises it."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
        return RoomError(f"no room for {path}: {error.strerror}; free some space and start again")
    return CheckpointError(f"{path} cannot be written: {error.strerror}")


def _check_own(folder: Path) -> None:
    """Refuse a hidden folder that somebody else has put there: what is written into it could go anywhere."""
    try:
        status = folder.lstat()
    except FileNotFoundError:
        return
    if folder.is_symlink() or not folder.is_dir() or status.st_uid != os.geteuid():
        raise UsageError(f"{folder} is in the way and is not ours; remove it, or give another output name")


def _holds(descriptor: int, path: Path, target: Path) -> bool:
    """Lock a file; False when it was removed meanwhile, so that the lock says nothing."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        ours = os.fstat(descriptor)
        theirs = path.lstat()
    except BlockingIOError:
        os.close(descriptor)
        raise UsageError(f"{target} is already being written by another process; wait for it") from None
    except FileNotFoundError:
        os.close(descriptor)
        return False
    except BaseException:
        os.close(descriptor)
        raise
    if (ours.st_dev, ours.st_ino) == (theirs.st_dev, theirs.st_ino):
        return True
    os.close(descriptor)
    return False


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _remove_empty(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError as error:
        if error.errno not in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT}:
            raise


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
