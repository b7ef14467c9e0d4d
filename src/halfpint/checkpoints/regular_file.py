"""A regular file held open for reading at offsets.

Weights are read with `pread`, never through a memory map: when a file shrinks under the reader, a map kills the
process with SIGBUS, while a short read can be told as an error.
"""

from __future__ import annotations

import codecs
import math
import os
import stat
from pathlib import Path

import numpy as np

from halfpint.errors import CheckpointError, RoomError
from halfpint.tensors import Array

_LARGEST_READ = 1 << 30
"""Bytes asked of one system call: Linux stops at 2 GiB, so larger reads are loops anyway."""


_POINTER, _LARGEST_POINTER = b"version https://git-lfs.github.com/spec/", 1024


class RegularFile:
    """An open regular file; symbolic links are followed, anything but a regular file is refused.

    Attributes
    ----------
    path : Path
        As given.
    size : int
        Bytes when it was opened. All bounds are checked against this.
    """

    __slots__ = ("_descriptor", "_stamp", "path", "size")

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = -1
        try:
            # Without O_NONBLOCK, opening a FIFO would wait for somebody to write into it.
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except (OSError, ValueError) as error:
            raise _cannot_open(path, error) from error
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            os.close(descriptor)
            raise CheckpointError(f"{str(path)!r} is not a regular file, so it is not read")
        self._descriptor = descriptor
        self._stamp: tuple[int, int, int, int] | None = _stamp(status)
        self.size = status.st_size
        if self.size <= _LARGEST_POINTER and os.pread(descriptor, len(_POINTER), 0) == _POINTER:
            self.close()
            raise CheckpointError(
                f"{path} is a pointer of Git LFS ({self.size} bytes), not the file itself; fetch it with "
                "`git lfs pull`, or download the file"
            )

    def read(self, offset: int, count: int, what: str) -> bytes:
        """Read `count` bytes at `offset`; `what` names them in errors.

        Raises
        ------
        CheckpointError
            If the file does not hold them.
        """
        self._check(offset, count, what)
        pieces: list[bytes] = []
        done = 0
        while done < count:
            # One piece nearly always, which is then handed on without a copy.
            pieces.append(self._read_some(offset + done, count - done, what))
            done += len(pieces[-1])
        self.check_unchanged(what)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def read_array(self, offset: int, shape: tuple[int, ...], dtype: np.dtype[np.generic], what: str) -> Array:
        """Read a C-contiguous array stored at `offset`, straight into its memory.

        Raises
        ------
        CheckpointError
            If the file does not hold it (checked before anything is allocated).
        RoomError
            If there is no memory for it.
        """
        count = dtype.itemsize * math.prod(shape)
        self._check(offset, count, what)
        try:
            array = np.empty(shape, dtype)
        except MemoryError as error:
            raise RoomError(f"{what}: no memory for {count} bytes; read fewer rows at a time") from error
        if count:
            self._fill(array.reshape(-1).view(np.uint8).data, offset, what)
        self.check_unchanged(what)
        return array

    def allow_changes(self) -> None:
        """Read a file that this process writes to meanwhile."""
        self._stamp = None

    def check_unchanged(self, what: str) -> None:
        """Refuse a file that was written to since it was opened: what was read may be partly old and partly new.

        A file that was renamed, linked or deleted meanwhile is still read as it was.

        Raises
        ------
        CheckpointError
            If its size or times are others.
        """
        if self._descriptor < 0 or self._stamp is None:
            return
        now = _stamp(os.fstat(self._descriptor))
        if now[:2] != self._stamp[:2] or (now[2] != self._stamp[2] and now[3] == self._stamp[3]):
            raise CheckpointError(
                f"{what}: {self.path} was changed while it was being read; run the command again when nothing writes "
                "to it any more"
            )

    def close(self) -> None:
        """Release the descriptor; reading afterwards is a CheckpointError."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __del__(self) -> None:
        self.close()

    def _check(self, offset: int, count: int, what: str) -> None:
        if self._descriptor < 0:
            raise CheckpointError(f"{what}: {self.path} is closed")
        if offset < 0 or count < 0 or offset + count > self.size:
            raise CheckpointError(
                f"{what}: bytes {offset} to {offset + count} of {self.path} are wanted, but the file has {self.size}"
            )

    def _fill(self, buffer: memoryview, offset: int, what: str) -> None:
        done = 0
        while done < len(buffer):
            try:
                got = os.preadv(self._descriptor, [buffer[done : done + _LARGEST_READ]], offset + done)
            except OSError as error:
                raise self._failure(offset + done, what, error.strerror) from error
            if got == 0:
                raise self._failure(offset + done, what, None)
            done += got

    def _read_some(self, offset: int, count: int, what: str) -> bytes:
        try:
            piece = os.pread(self._descriptor, min(count, _LARGEST_READ), offset)
        except OSError as error:
            raise self._failure(offset, what, error.strerror) from error
        if not piece:
            raise self._failure(offset, what, None)
        return piece

    def _failure(self, offset: int, what: str, reason: str | None) -> CheckpointError:
        if reason is not None:
            return CheckpointError(f"{what}: reading {self.path} at byte {offset} failed: {reason}")
        return CheckpointError(
            f"{what}: {self.path} ends at byte {offset}, though it had {self.size} bytes when it was opened; "
            "it was cut short meanwhile"
        )


def _stamp(status: os.stat_result) -> tuple[int, int, int, int]:
    """Size, times of the last write and of the last change of anything, and how many names the file has."""
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_nlink


def _cannot_open(path: Path, error: OSError | ValueError) -> CheckpointError:
    if isinstance(error, FileNotFoundError):
        return CheckpointError(f"{str(path)!r} does not exist")
    reason = error.strerror if isinstance(error, OSError) else str(error)
    return CheckpointError(f"{str(path)!r} cannot be opened: {reason}")


def without_mark(data: bytes, what: str) -> bytes:
    """Give the bytes of a UTF-8 text without the byte order mark that some editors put before it.

    Raises
    ------
    CheckpointError
        If the mark is that of UTF-16 or UTF-32.
    """
    encoding = marked_encoding(data)
    if encoding:
        raise CheckpointError(f"{what} is {encoding}; save it as UTF-8")
    return data.removeprefix(codecs.BOM_UTF8)


def marked_encoding(data: bytes) -> str:
    """Name the encoding other than UTF-8 that a byte order mark announces; empty without such a mark."""
    if data.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "UTF-32"
    return "UTF-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else ""


def read_small_file(path: Path, limit: int) -> bytes:
    """Read a whole regular file of at most `limit` bytes.

    Raises
    ------
    CheckpointError
        If it is missing, not a regular file, or larger.
    """
    file = RegularFile(path)
    try:
        if file.size > limit:
            raise CheckpointError(f"{path} has {file.size} bytes; more than {limit} are not read")
        return file.read(0, file.size, str(path))
    finally:
        file.close()
