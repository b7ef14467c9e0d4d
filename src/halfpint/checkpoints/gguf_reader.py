"""An open GGUF model, seen with the names, shapes and row orders of the Hugging Face folder."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from halfpint import families
from halfpint.checkpoints.gguf_header import GgufTensor
from halfpint.checkpoints.gguf_metadata import Metadata, StringArray
from halfpint.checkpoints.gguf_names import Place, places
from halfpint.checkpoints.gguf_parts import Part, open_parts, stored_tensors
from halfpint.checkpoints.gguf_types import READABLE
from halfpint.checkpoints.regular_file import RegularFile
from halfpint.checkpoints.stored import as_float32
from halfpint.errors import CheckpointError, UnsupportedError, UsageError
from halfpint.formats.plain import F32, Plain
from halfpint.tensors import Array, FloatArray, Format, QuantizedTensor, TensorSpec

SIDE_TENSORS = frozenset({"rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"})
"""Tensors that are configuration: a known family reads them into `config` and hides them."""

_LONGEST_SIDE_TENSOR = 65_536


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor as the checkpoint shows it, and where its bytes are.

    Attributes
    ----------
    spec : TensorSpec
        Shown.
    file : RegularFile
        Holds it.
    stored : GgufTensor
        The file's tensor, of which it may be a slice.
    place : Place or None
        How the family maps it; None for tensors under their own names.
    """

    spec: TensorSpec
    file: RegularFile
    stored: GgufTensor
    place: Place | None


class GgufCheckpoint:
    """An open GGUF model; see `halfpint.checkpoints.checkpoint.Checkpoint`.

    Tensors of a known family have their Hugging Face names, shapes and row orders, and `config` holds the words of
    config.json. Others keep the file's names, with dimensions reversed to rows first, and `config` is empty.

    Attributes
    ----------
    path : Path
        The file, or the first of its parts.
    metadata : Metadata
        Everything that the file says of itself, typed.
    config : Mapping of str to Any
    tensors : Mapping of str to TensorSpec
        In file order.
    side_tensors : Mapping of str to FloatArray
        Contents of the `SIDE_TENSORS` that a known family's file has: float32, one axis.
    """

    container = "gguf"
    notes: tuple[str, ...] = ()

    __slots__ = ("_entries", "_parts", "config", "metadata", "path", "side_tensors", "tensors")

    def __init__(self, path: Path) -> None:
        self.path = path
        self._parts = open_parts(path)
        try:
            self.metadata = self._parts[0].header.metadata
            stored = stored_tensors(self._parts)
            self.side_tensors, self.config = _configuration(self.metadata, stored)
            self._entries = _entries(stored, self.config, frozenset(self.side_tensors), self.metadata.file)
            self.tensors: Mapping[str, TensorSpec] = MappingProxyType(
                {name: entry.spec for name, entry in self._entries.items()}
            )
        except BaseException:
            self.close()
            raise

    @property
    def parts(self) -> tuple[Part, ...]:
        """The open files, with their headers."""
        return self._parts

    @property
    def files(self) -> tuple[Path, ...]:
        """The parts' files."""
        return tuple(part.file.path for part in self._parts)

    @property
    def weight_bytes(self) -> int:
        """Bytes of all parts."""
        return sum(part.file.size for part in self._parts)

    def stored(self, name: str) -> GgufTensor:
        """Give the file's tensor that holds the tensor of this name."""
        return self._entry(name).stored

    def read(self, name: str, start_row: int = 0, end_row: int | None = None) -> Array | QuantizedTensor:
        """Read rows [start_row, end_row) of a tensor's first axis.

        Returns
        -------
        Array or QuantizedTensor
            An array [rows, ...] in the stored dtype, or blocks as the file has them. Of a quantized tensor with
            three axes, which only a model of unknown family shows, the first two axes come as one.

        Raises
        ------
        UsageError
            If there is no such tensor, or the rows are not in it.
        CheckpointError
            If the bytes are not there any more.
        UnsupportedError
            If the type of the tensor is one that is not decoded.
        """
        entry = self._entry(name)
        rows = entry.spec.shape[0]
        end_row = rows if end_row is None else end_row
        if not 0 <= start_row <= end_row <= rows:
            raise UsageError(f"tensor {name!r}: rows {start_row} to {end_row} of {rows} are wanted")
        if not entry.stored.type.readable or (entry.spec.format is None and entry.stored.type.dtype is None):
            raise UnsupportedError(
                f"tensor {name!r} with shape {list(entry.spec.shape)} is of ggml type {entry.stored.type.name}, "
                f"which is not decoded; read are matrices of {READABLE}"
            )
        data = _read_rows(entry, start_row, end_row)
        if entry.spec.dtype == "F64":
            data = as_float32(data, name)
        if entry.stored.type.dtype is None:
            assert entry.spec.format is not None
            columns = entry.spec.shape[-1]
            shape = (data.size // entry.stored.type.block_bytes * entry.stored.type.block_columns // columns, columns)
            blocks = data.reshape(shape[0], -1, entry.stored.type.block_bytes)
            return QuantizedTensor(entry.spec.format, shape, MappingProxyType({"blocks": blocks}))
        if entry.place is not None and entry.place.offset:
            return np.subtract(data, np.float32(entry.place.offset), dtype=np.float32)
        return data

    def allow_changes(self) -> None:
        """Read files that this process writes to meanwhile."""
        for part in self._parts:
            part.file.allow_changes()

    def check_unchanged(self) -> None:
        """Refuse files that were written to since they were opened."""
        for part in self._parts:
            part.file.check_unchanged(str(part.file.path))

    def close(self) -> None:
        """Release the files; reading afterwards is a CheckpointError."""
        for part in self._parts:
            part.file.close()

    def _entry(self, name: str) -> Entry:
        entry = self._entries.get(name)
        if entry is None:
            raise UsageError(f"{self.path} has no tensor {name!r}")
        return entry


_Stored = Mapping[str, tuple[RegularFile, GgufTensor]]


def _configuration(metadata: Metadata, stored: _Stored) -> tuple[dict[str, FloatArray], dict[str, Any]]:
    """Contents of the side tensors and config.json's words, both empty when the family is unknown."""
    plain = {key: value.plain for key, value in metadata.items() if not isinstance(value.data, StringArray)}
    if families.by_gguf_metadata(plain) is None or "token_embd.weight" not in stored:
        return {}, {}
    side = {name: _read_side(*stored[name]) for name in sorted(SIDE_TENSORS & set(stored))}
    shapes = {name: tensor.shape for name, (_, tensor) in stored.items()}
    try:
        config = families.hf_config(plain, shapes, side)
    except (CheckpointError, UnsupportedError) as error:
        raise type(error)(f"{metadata.file}: {error}") from error
    if config["num_hidden_layers"] > len(stored):
        raise CheckpointError(
            f"{metadata.file}: block_count is {config['num_hidden_layers']}, but the file has {len(stored)} tensors"
        )
    return side, config


def _read_side(file: RegularFile, tensor: GgufTensor) -> FloatArray:
    if len(tensor.shape) != 1 or tensor.type.format is not F32 or tensor.shape[0] > _LONGEST_SIDE_TENSOR:
        raise CheckpointError(
            f"{file.path.name}: tensor {tensor.name!r} must be a vector of F32, "
            f"but is {tensor.type.name} {list(tensor.shape)}"
        )
    return file.read_array(tensor.offset, tensor.shape, F32.dtype, f"tensor {tensor.name!r}")


def _entries(stored: _Stored, config: Mapping[str, Any], hidden: frozenset[str], file_name: str) -> dict[str, Entry]:
    by_gguf_name: dict[str, list[Place]] = {}
    for place in places(config).values() if config else ():
        by_gguf_name.setdefault(place.gguf_name, []).append(place)
    entries: dict[str, Entry] = {}
    for name, (file, tensor) in stored.items():
        if name in hidden:
            continue
        for place in by_gguf_name.get(name, ()):
            _check_shape(tensor, place, len(by_gguf_name[name]), file_name)
            _check_new(place.name, entries, file_name)
            entries[place.name] = Entry(_spec(place.name, place.shape, tensor), file, tensor, place)
        if name not in by_gguf_name:
            _check_new(name, entries, file_name)
            entries[name] = Entry(_spec(name, tensor.shape, tensor), file, tensor, None)
    return entries


def _check_new(name: str, entries: Mapping[str, Entry], file_name: str) -> None:
    if name in entries:
        raise CheckpointError(f"{file_name}: two tensors would have the name {name!r}; the file is hostile")


def _check_shape(tensor: GgufTensor, place: Place, experts: int, file_name: str) -> None:
    expected = place.shape if place.expert is None else (experts, *place.shape)
    if tensor.shape != expected:
        raise CheckpointError(
            f"{file_name}: tensor {tensor.name!r} has shape {list(tensor.shape)}, "
            f"but the metadata asks for {list(expected)}"
        )
    if place.offset and tensor.type.format is not F32:
        raise CheckpointError(f"{file_name}: tensor {tensor.name!r} must be F32, but is {tensor.type.name}")


def _spec(name: str, shape: tuple[int, ...], tensor: GgufTensor) -> TensorSpec:
    elements = math.prod(shape)
    nbytes = elements // tensor.type.block_columns * tensor.type.block_bytes
    fmt: Format | None = tensor.type.format
    if tensor.type.name == "F64":
        fmt = F32
    if len(shape) == 1 and not isinstance(fmt, Plain):
        fmt = None
    return TensorSpec(name, shape, tensor.type.name, nbytes, fmt)


def _read_rows(entry: Entry, start: int, end: int) -> Array:
    """Rows [start, end) in the order shown, as values or as bytes [rows, row_bytes]."""
    stored_rows = None if entry.place is None else entry.place.stored_rows
    if stored_rows is None or start == end:
        return _read_stored(entry, start, end)
    wanted = stored_rows[start:end]
    first = int(wanted.min())
    # Rows move within their head only, so this reads at most the rows of the heads that are touched.
    return _read_stored(entry, first, int(wanted.max()) + 1)[wanted - first]


def _read_stored(entry: Entry, start: int, end: int) -> Array:
    shape = entry.spec.shape
    row_bytes = entry.spec.nbytes // shape[0] if shape[0] else 0
    base = entry.stored.offset
    if entry.place is not None and entry.place.expert is not None:
        base += entry.place.expert * entry.spec.nbytes
    what = f"tensor {entry.spec.name!r}"
    dtype = entry.stored.type.dtype
    if dtype is None:
        return entry.file.read_array(base + start * row_bytes, (end - start, row_bytes), np.dtype(np.uint8), what)
    return entry.file.read_array(base + start * row_bytes, (end - start, *shape[1:]), dtype, what)
