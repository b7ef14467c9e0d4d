"""A GGUF file being filled: its header stands first, rows of tensors come in any order."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from halfpint.checkpoints.coverage import RowCoverage
from halfpint.checkpoints.gguf_layout import GgufLayout
from halfpint.checkpoints.gguf_names import Place
from halfpint.checkpoints.staging import Staging, check_room, missing_bytes, write_failure
from halfpint.errors import UsageError
from halfpint.tensors import Array, FloatArray, QuantizedTensor

_LARGEST_WRITE = 1 << 30


class GgufWriter:
    """See `halfpint.checkpoints.checkpoint.Writer`.

    Parameters
    ----------
    staging : Staging
        Where it grows. What an earlier writer of the same layout left there stays; the header is written anew.
    layout : GgufLayout
        Of the whole file.
    places : Mapping of str to Place
        Of every tensor that will be written, by Hugging Face name.
    side_tensors : Mapping of str to FloatArray
        Vectors that are configuration, by the file's name; written at once.

    Raises
    ------
    RoomError
        If the disk cannot hold the file.
    """

    __slots__ = ("_coverage", "_descriptor", "_layout", "_places", "_staging")

    def __init__(
        self,
        staging: Staging,
        layout: GgufLayout,
        places: Mapping[str, Place],
        side_tensors: Mapping[str, FloatArray],
    ) -> None:
        self._layout = layout
        self._places = places
        self._coverage = RowCoverage({name: place.shape[0] for name, place in places.items()})
        self._descriptor = -1
        self._staging = staging
        staging.begin(folder=False)
        try:
            self._begin(side_tensors)
        except BaseException:
            self._close()
            raise

    def write(self, name: str, start_row: int, values: QuantizedTensor | Array) -> QuantizedTensor | Array:
        """Store rows of a tensor, in the row order of the Hugging Face folder.

        Parameters
        ----------
        name : str
            Hugging Face name.
        start_row : int
            First row.
        values : QuantizedTensor or Array
            In the declared format or dtype; a float vector must be float32.

        Returns
        -------
        QuantizedTensor or Array
            What will be read back: a norm that is stored with one added loses what float32 has not there.

        Raises
        ------
        UsageError
            If the tensor was not declared so, or rows come twice.
        RoomError
            If the disk is full.
        """
        if self._descriptor < 0:
            raise UsageError("the output is finished or abandoned; nothing can be written any more")
        place = self._places.get(name)
        if place is None:
            raise UsageError(f"tensor {name!r} was not declared when the output was begun")
        if place.offset and isinstance(values, np.ndarray) and values.dtype == np.float32:
            offset = np.float32(place.offset)
            shifted = np.add(values, offset, dtype=np.float32)
            self._store(place, start_row, self._row_bytes(place, shifted))
            return np.subtract(shifted, offset, dtype=np.float32)
        self._store(place, start_row, self._row_bytes(place, values))
        return values

    def _store(self, place: Place, start_row: int, rows: Array) -> None:
        self._coverage.add(place.name, start_row, len(rows))
        stored = self._layout.tensors[place.gguf_name]
        base = stored.offset
        if place.expert is not None:
            base += place.expert * rows.shape[1] * place.shape[0]
        if place.stored_rows is None:
            self._put(rows, base + start_row * rows.shape[1])
            return
        targets = place.stored_rows[start_row : start_row + len(rows)]
        first = int(targets.min()) if len(rows) else 0
        if len(rows) and int(targets.max()) - first == len(rows) - 1:  # whole heads
            in_order = np.empty_like(rows)
            in_order[targets - first] = rows
            self._put(in_order, base + first * rows.shape[1])
            return
        for row, target in zip(rows, targets.tolist(), strict=True):
            self._put(row, base + target * rows.shape[1])

    def keep_rows(self, name: str, start_row: int, end_row: int) -> None:
        """Take it that rows [start_row, end_row) of a tensor are there already."""
        self._coverage.add(name, start_row, end_row - start_row)

    def finish(self) -> Path:
        """Check that every row has come, sync to disk, rename.

        Raises
        ------
        VerificationError
            If something declared was not written.
        """
        self._coverage.check_complete()
        self._close()
        return self._staging.publish()

    def leave(self) -> None:
        """Leave what was written aside for a later writer."""
        self._close()
        self._staging.leave()

    def abandon(self) -> None:
        """Remove what was written aside; safe to call at any time."""
        self._close()
        self._staging.abandon()

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            self._close()

    def _begin(self, side_tensors: Mapping[str, FloatArray]) -> None:
        path = self._staging.path
        check_room(path.parent, missing_bytes(path, self._layout.size))
        try:
            self._descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            # Reserved at once, so that a disk that others fill meanwhile is told now and not at the end. Padding
            # stays zero.
            os.posix_fallocate(self._descriptor, 0, self._layout.size)
        except OSError as error:
            raise write_failure(self._staging.target, error) from error
        self._put(np.frombuffer(self._layout.header, np.uint8), 0)
        for name, values in side_tensors.items():
            self._put(np.ascontiguousarray(values, np.dtype("<f4")), self._layout.tensors[name].offset)

    def _row_bytes(self, place: Place, values: QuantizedTensor | Array) -> Array:
        """Check rows against what was declared and give their bytes, uint8 [rows, row_bytes]."""
        stored = self._layout.tensors[place.gguf_name]
        array = _stored_array(values)
        row_shape = place.shape[1:]
        elements = math.prod(row_shape)
        row_bytes = elements // stored.type.block_columns * stored.type.block_bytes
        if stored.type.dtype is None:
            fits = isinstance(values, QuantizedTensor) and values.format == stored.type.format
            if not fits or array.size % row_bytes:
                raise self._mismatch(place, values)
            return np.ascontiguousarray(array).reshape(-1, row_bytes)
        if array.dtype != stored.type.dtype or array.shape[1:] != row_shape or array.ndim == 0:
            raise self._mismatch(place, values)
        return np.ascontiguousarray(array).reshape(-1).view(np.uint8).reshape(len(array), row_bytes)

    def _mismatch(self, place: Place, values: QuantizedTensor | Array) -> UsageError:
        stored = self._layout.tensors[place.gguf_name]
        what = values.format.name if isinstance(values, QuantizedTensor) else str(values.dtype)
        return UsageError(
            f"tensor {place.name!r} was declared {stored.type.name} {list(place.shape)}, "
            f"but {what} {list(values.shape)} came"
        )

    def _put(self, values: Array, offset: int) -> None:
        if not values.size:
            return
        view = values.reshape(-1).view(np.uint8).data
        done = 0
        try:
            while done < len(view):
                done += os.pwrite(self._descriptor, view[done : done + _LARGEST_WRITE], offset + done)
        except OSError as error:
            raise write_failure(self._staging.target, error) from error

    def _close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _stored_array(values: QuantizedTensor | Array) -> Array:
    """Give the array that goes into the file: blocks, or plain values however they come."""
    if isinstance(values, QuantizedTensor):
        return values.parts["blocks"] if "blocks" in values.parts else next(iter(values.parts.values()))
    return values
