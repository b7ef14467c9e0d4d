"""Activations that wait: in memory up to a limit, beyond it in a file without a name."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from halfpint.engine.steps import Held
from halfpint.errors import RoomError, UsageError
from halfpint.tensors import Array, FloatArray

PAGE_BYTES = 2**18


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamOptions:
    """Where the activations of a text wait while a model goes through it block by block.

    Attributes
    ----------
    max_activation_bytes : int
        Most bytes of them in memory; what is more goes into a file that is gone with the process.
    folder : Path
        Where that file is; it needs room for what `activation_bytes` says.
    scarce_share : float
        A weight whose input has fewer tokens than this share of its columns is named in the report.
    """

    max_activation_bytes: int = 2**30
    folder: Path = field(default_factory=lambda: Path(tempfile.gettempdir()))
    scarce_share: float = 0.125

    def __post_init__(self) -> None:
        if self.max_activation_bytes < 0:
            raise UsageError(f"max_activation_bytes must not be negative, got {self.max_activation_bytes}")


class Shelf:
    """Puts arrays aside. Close it at the end, or use it as a context.

    The file is read and written, not mapped: what is on disk does not count as memory, and a full disk is an error
    that can be told instead of a signal that kills.

    Parameters
    ----------
    options : StreamOptions
    """

    __slots__ = ("_end", "_file", "_free", "_memory_bytes", "_options", "_waiting_bytes", "most_bytes")

    def __init__(self, options: StreamOptions) -> None:
        self._options = options
        self._file: int | None = None
        self._end = 0
        self._free: list[int] = []
        self._memory_bytes = 0
        self._waiting_bytes = 0
        self.most_bytes = 0

    @property
    def file_bytes(self) -> int:
        """How large the file has become: 0 if all fits memory."""
        return self._end

    def keep(self, array: FloatArray) -> Held:
        """Put an array aside, float32 and contiguous; whoever gave it must not change it any more."""
        self._waiting_bytes += array.nbytes
        self.most_bytes = max(self.most_bytes, self._waiting_bytes)
        if self._memory_bytes + array.nbytes <= self._options.max_activation_bytes:
            self._memory_bytes += array.nbytes
            return _InMemory(self, array)
        return _OnDisk(self, self._write(np.ascontiguousarray(array, np.float32)), array.shape)

    def forget(self, nbytes: int) -> None:
        """An array that was in memory is taken."""
        self._memory_bytes -= nbytes
        self._waiting_bytes -= nbytes

    def read(self, pages: Sequence[int], shape: Sequence[int]) -> FloatArray:
        """Read an array from the file."""
        assert self._file is not None
        array = np.empty(shape, np.float32)
        read_pages(self._file, pages, array)
        return array

    def free(self, pages: Sequence[int], nbytes: int) -> None:
        """An array on disk is taken: its pages are used again."""
        self._free.extend(pages)
        self._waiting_bytes -= nbytes

    def close(self) -> None:
        """Remove the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def __enter__(self) -> Shelf:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write(self, array: FloatArray) -> list[int]:
        pages = [self._page() for _ in range(-(-array.nbytes // PAGE_BYTES))]
        try:
            if self._file is None:
                self._file, name = tempfile.mkstemp(prefix="halfpint-activations-", dir=self._options.folder)
                Path(name).unlink()  # it lives as long as it is open: a killed process leaves nothing behind
            write_pages(self._file, pages, array)
        except OSError as error:
            reason = "the disk is full" if error.errno == errno.ENOSPC else str(error)
            raise RoomError(
                f"{array.nbytes} bytes of activations cannot be written in {self._options.folder}: {reason}; "
                "choose another folder, or take less calibration text"
            ) from error
        return pages

    def _page(self) -> int:
        """Give the offset of a free page."""
        if self._free:
            return self._free.pop()
        self._end += PAGE_BYTES
        return self._end - PAGE_BYTES


@dataclass(slots=True)
class _InMemory:
    shelf: Shelf
    array: FloatArray | None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.read().shape

    def read(self) -> FloatArray:
        assert self.array is not None, "taken before"
        return self.array

    def take(self) -> FloatArray:
        array, self.array = self.read(), None
        self.shelf.forget(array.nbytes)
        return array


@dataclass(frozen=True, slots=True)
class _OnDisk:
    shelf: Shelf
    pages: list[int]
    shape: tuple[int, ...]

    def read(self) -> FloatArray:
        return self.shelf.read(self.pages, self.shape)

    def take(self) -> FloatArray:
        array = self.read()
        self.shelf.free(self.pages, array.nbytes)
        return array


def write_pages(file: int, pages: Sequence[int], array: Array) -> None:
    """Write the bytes of a contiguous array to pages of an open file; the last may be filled in part."""
    view = array.reshape(-1).view(np.uint8).data
    for number, page in enumerate(pages):
        part, offset = view[number * PAGE_BYTES : (number + 1) * PAGE_BYTES], page
        while part:
            written = os.pwrite(file, part, offset)
            part, offset = part[written:], offset + written


def read_pages(file: int, pages: Sequence[int], array: Array) -> None:
    """Fill a contiguous array with the bytes of pages of an open file.

    Raises
    ------
    OSError
        If the file ends before.
    """
    view = array.reshape(-1).view(np.uint8).data
    for number, page in enumerate(pages):
        part, offset = view[number * PAGE_BYTES : (number + 1) * PAGE_BYTES], page
        while part:
            read = os.preadv(file, [part], offset)
            if not read:
                raise OSError(errno.EIO, "the file of activations is cut off")
            part, offset = part[read:], offset + read
