"""Where calibration stands after a block, on disk: to go on after an interruption with the same bytes."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halfpint.calibration.activation_store import PAGE_BYTES, read_pages, write_pages
from halfpint.engine.steps import Held
from halfpint.errors import CheckpointError, RoomError
from halfpint.tensors import FloatArray

FILE_NAME = "streams.state"
_MAGIC = b"halfpint streams 1\n"
_MOST_FOOTER_BYTES = 2**24


@dataclass(frozen=True, slots=True)
class StreamState:
    """Both streams after a block.

    Attributes
    ----------
    layer : int
        The block that is finished.
    fingerprint : int
        Of the text, so that a state is not continued with another one.
    original, quantized : sequence of Held
        Hidden states by batch, float32 [sequences, tokens, hidden_size].
    routed : dict of int to int64 [experts]
        See `CalibrationReport`.
    scarce : dict of str to int
        See `CalibrationReport`.
    """

    layer: int
    fingerprint: int
    original: Sequence[Held]
    quantized: Sequence[Held]
    routed: dict[int, NDArray[np.int64]]
    scarce: dict[str, int]

    def save(self, folder: Path) -> Path:
        """Write the state into a folder, in place of an earlier one, at once or not at all.

        Returns
        -------
        Path
            The file: raw float32, a JSON footer with shapes and crc32, its length in 8 bytes, and a magic line.

        Raises
        ------
        RoomError
            If it cannot be written.
        """
        partial, path = folder / (FILE_NAME + ".partial"), folder / FILE_NAME
        try:
            self._write(partial)
            partial.replace(path)
            _sync_folder(folder)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise RoomError(f"the state of calibration cannot be written to {path}: {error}") from error
        return path

    def _write(self, path: Path) -> None:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            offset = 0
            entries = []
            for held in (*self.original, *self.quantized):
                array = np.ascontiguousarray(held.read())
                write_pages(file, _pages(offset, array.nbytes), array)
                entries.append({"shape": list(array.shape), "crc32": _checksum(array)})
                offset += array.nbytes
            footer = json.dumps(
                {
                    "layer": self.layer,
                    "fingerprint": self.fingerprint,
                    "arrays": entries,
                    "routed": {str(layer): counts.tolist() for layer, counts in self.routed.items()},
                    "scarce": self.scarce,
                }
            ).encode()
            tail = footer + zlib.crc32(footer).to_bytes(8, "little") + len(footer).to_bytes(8, "little") + _MAGIC
            os.pwrite(file, tail, offset)
            os.fsync(file)
        finally:
            os.close(file)

    @classmethod
    def load(cls, folder: Path) -> StreamState:
        """Open what `save` wrote; hidden states are read when they are needed, from the file that stays open.

        Raises
        ------
        CheckpointError
            If there is no such file, or it is not whole.
        """
        path = folder / FILE_NAME
        try:
            saved = _Saved(os.open(path, os.O_RDONLY))
            footer = saved.footer()
            arrays = saved.arrays(footer["arrays"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{path} is not a whole state of calibration: {error}; begin anew") from error
        return cls(
            layer=int(footer["layer"]),
            fingerprint=int(footer["fingerprint"]),
            original=arrays[: len(arrays) // 2],
            quantized=arrays[len(arrays) // 2 :],
            routed={int(layer): np.array(counts, np.int64) for layer, counts in footer["routed"].items()},
            scarce={str(name): int(tokens) for name, tokens in footer["scarce"].items()},
        )


class _Saved:
    """An open file, closed when nothing refers to it any more."""

    __slots__ = ("_file",)

    def __init__(self, file: int) -> None:
        self._file = file

    def __del__(self) -> None:
        os.close(self._file)

    def footer(self) -> dict[str, Any]:
        """Read and check the end of the file."""
        size = os.fstat(self._file).st_size
        tail = os.pread(self._file, 16 + len(_MAGIC), max(0, size - 16 - len(_MAGIC)))
        length = int.from_bytes(tail[8:16], "little")
        if tail[16:] != _MAGIC or length > min(size, _MOST_FOOTER_BYTES):
            raise ValueError("its end is missing")
        text = os.pread(self._file, length, size - 16 - len(_MAGIC) - length)
        if zlib.crc32(text) != int.from_bytes(tail[:8], "little"):
            raise ValueError("its footer is damaged")
        footer: dict[str, Any] = json.loads(text)
        return footer

    def arrays(self, entries: Sequence[dict[str, Any]]) -> list[_Stored]:
        """Check every array."""
        offset = 0
        stored = []
        for entry in entries:
            item = _Stored(self, offset, tuple(entry["shape"]))
            array = item.read()
            if _checksum(array) != entry["crc32"]:
                raise ValueError("its numbers are damaged")
            stored.append(item)
            offset += array.nbytes
        return stored

    def read(self, offset: int, shape: Sequence[int]) -> FloatArray:
        """Read an array."""
        array = np.empty(shape, np.float32)
        read_pages(self._file, _pages(offset, array.nbytes), array)
        return array


@dataclass(frozen=True, slots=True)
class _Stored:
    """An array of a saved state."""

    saved: _Saved
    offset: int
    shape: tuple[int, ...]

    def read(self) -> FloatArray:
        return self.saved.read(self.offset, self.shape)

    def take(self) -> FloatArray:
        return self.read()


def _pages(offset: int, nbytes: int) -> range:
    """Pages one after the other."""
    return range(offset, offset + nbytes, PAGE_BYTES)


def _checksum(array: FloatArray) -> int:
    return zlib.crc32(array.reshape(-1).view(np.uint8).data)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
