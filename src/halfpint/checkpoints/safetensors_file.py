"""One safetensors file: rows of its tensors on demand, or a new one filled in any order."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from halfpint.checkpoints.regular_file import RegularFile
from halfpint.checkpoints.safetensors_header import (
    DTYPES,
    LONGEST_HEADER,
    SafetensorsHeader,
    TensorEntry,
    parse_header,
    serialize_header,
)
from halfpint.checkpoints.staging import check_room, missing_bytes, write_failure
from halfpint.errors import CheckpointError, UsageError
from halfpint.tensors import Array


class SafetensorsFile:
    """An open safetensors file whose header has been read and checked.

    Attributes
    ----------
    path : Path
    size : int
        Bytes of the file.
    entries : Mapping of str to TensorEntry
    metadata : Mapping of str to str
    """

    __slots__ = ("_file", "_header", "entries", "metadata", "path", "size")

    def __init__(self, path: Path) -> None:
        self._file = RegularFile(path)
        try:
            self._header = _read_header(self._file)
        except BaseException:
            self._file.close()
            raise
        self.path = path
        self.size = self._file.size
        self.entries: Mapping[str, TensorEntry] = self._header.entries
        self.metadata: Mapping[str, str] = self._header.metadata

    def read(self, name: str, start_row: int = 0, end_row: int | None = None) -> Array:
        """Read rows [start_row, end_row) of a tensor's first axis, and only their bytes.

        Returns
        -------
        Array
            In the stored dtype, [end_row - start_row, ...]; a tensor without axes is read whole.

        Raises
        ------
        UsageError
            If the rows are not in the tensor, or there is no such tensor.
        CheckpointError
            If the file does not hold the bytes any more.
        """
        entry = self.entries.get(name)
        if entry is None:
            raise UsageError(f"{self.path} has no tensor {name!r}")
        dtype = DTYPES[entry.dtype]
        start = self._header.data_start + entry.begin
        what = f"tensor {name!r}"
        if not entry.shape:
            return self._file.read_array(start, (), dtype, what)
        rows = entry.shape[0]
        end_row = rows if end_row is None else end_row
        if not 0 <= start_row <= end_row <= rows:
            raise UsageError(f"{what}: rows {start_row} to {end_row} of {rows} are wanted")
        row_bytes = (entry.end - entry.begin) // rows if rows else 0
        shape = (end_row - start_row, *entry.shape[1:])
        return self._file.read_array(start + start_row * row_bytes, shape, dtype, what)

    def allow_changes(self) -> None:
        """Read a file that this process writes to meanwhile."""
        self._file.allow_changes()

    def check_unchanged(self) -> None:
        """Refuse a file that was written to since it was opened."""
        self._file.check_unchanged(str(self.path))

    def close(self) -> None:
        """Release the file; reading afterwards is a CheckpointError."""
        self._file.close()


def _read_header(file: RegularFile) -> SafetensorsHeader:
    name = str(file.path)
    if file.size < 10:
        raise CheckpointError(f"{name} has {file.size} bytes, too few for a safetensors file")
    length = int.from_bytes(file.read(0, 8, f"{name}: length of the header"), "little")
    if length > LONGEST_HEADER:
        raise CheckpointError(
            f"{name} is no safetensors file: its header would have {length} bytes, more than {LONGEST_HEADER}"
        )
    if length > file.size - 8:
        raise CheckpointError(f"{name} is cut short: its header has {length} bytes, the whole file {file.size}")
    return parse_header(file.read(8, length, f"{name}: header"), file.size - 8 - length, name)


class SafetensorsLayout:
    """Where each tensor of a file to be written lies; known before any value is.

    Attributes
    ----------
    header : bytes
        All that precedes the data.
    entries : Mapping of str to TensorEntry
    size : int
        Bytes of the whole file.
    """

    __slots__ = ("entries", "header", "size")

    def __init__(self, tensors: Mapping[str, tuple[str, tuple[int, ...]]], metadata: Mapping[str, str]) -> None:
        entries: dict[str, TensorEntry] = {}
        begin = 0
        # Wide dtypes first, as the reference writer does, so that every tensor is aligned to its elements.
        for name in sorted(tensors, key=lambda name: -DTYPES[tensors[name][0]].itemsize):
            dtype, shape = tensors[name]
            count = DTYPES[dtype].itemsize * math.prod(shape)
            entries[name] = TensorEntry(dtype, shape, begin, begin + count)
            begin += count
        self.entries: Mapping[str, TensorEntry] = MappingProxyType(entries)
        self.header = serialize_header(entries, metadata)
        self.size = len(self.header) + begin


class SafetensorsWriter:
    """A safetensors file being filled: its size is reserved at once, its bytes come in any order.

    Parameters
    ----------
    path : Path
    layout : SafetensorsLayout
    resume : bool
        Whether the file may be there already, begun with the same layout; its data stay then.
    """

    __slots__ = ("_descriptor", "_layout", "path")

    def __init__(self, path: Path, layout: SafetensorsLayout, *, resume: bool = False) -> None:
        self.path = path
        self._layout = layout
        check_room(path.parent, missing_bytes(path, layout.size))
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | (0 if resume else os.O_EXCL)
        self._descriptor = os.open(path, flags, 0o644)
        try:
            if layout.size:
                # Reserved at once, so that a disk that others fill meanwhile is told now and not at the end.
                os.posix_fallocate(self._descriptor, 0, layout.size)
            self._put(layout.header, 0)
        except OSError as error:
            self.close()
            if not resume:
                # What was reserved before the reservation failed would go on filling the disk.
                path.unlink(missing_ok=True)
            raise write_failure(path, error) from error

    def write_bytes(self, name: str, offset: int, values: Array) -> None:
        """Store a C-contiguous array at byte `offset` of a tensor."""
        entry = self._layout.entries[name]
        data = values.reshape(-1).view("u1") if values.size else values.reshape(-1)
        if offset < 0 or offset + data.nbytes > entry.end - entry.begin:
            raise UsageError(f"tensor {name!r}: {data.nbytes} bytes at {offset} do not fit its {entry}")
        try:
            if data.nbytes:
                self._put(data.data, len(self._layout.header) + entry.begin + offset)
        except OSError as error:
            raise write_failure(self.path, error) from error

    def write_rows(self, name: str, start_row: int, values: Array) -> None:
        """Store whole rows of a tensor in its own dtype.

        Raises
        ------
        UsageError
            If dtype or row shape is not the one declared, or the rows are not in the tensor.
        RoomError
            If the disk is full.
        """
        entry = self._layout.entries[name]
        if values.dtype != DTYPES[entry.dtype] or values.shape[1:] != entry.shape[1:]:
            raise UsageError(
                f"tensor {name!r} was declared {entry.dtype} {list(entry.shape)}, "
                f"but {values.dtype} {list(values.shape)} came"
            )
        row_bytes = (entry.end - entry.begin) // entry.shape[0] if entry.shape and entry.shape[0] else 0
        self.write_bytes(name, start_row * row_bytes, values)

    def sync(self) -> None:
        """Wait until all of it is on the disk."""
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            raise write_failure(self.path, error) from error

    def close(self) -> None:
        """Release the file; safe to call again."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            self.close()

    def _put(self, data: bytes | memoryview, offset: int) -> None:
        view = memoryview(data)
        done = 0
        while done < len(view):
            done += os.pwrite(self._descriptor, view[done : done + (1 << 30)], offset + done)
