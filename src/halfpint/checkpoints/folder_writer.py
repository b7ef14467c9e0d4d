"""Writing a folder of safetensors files: shards laid out beforehand, filled with rows in any order."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

from halfpint.checkpoints.checkpoint import Checkpoint, OutputTensor
from halfpint.checkpoints.coverage import RowCoverage
from halfpint.checkpoints.safetensors_file import SafetensorsLayout, SafetensorsWriter
from halfpint.checkpoints.safetensors_header import DTYPES
from halfpint.checkpoints.shards import INDEX_NAME, SINGLE_NAME, is_plain_name
from halfpint.checkpoints.side_files import CONFIG_NAME, read_side_file, side_files
from halfpint.checkpoints.staging import Staging, check_apart, check_room, missing_bytes, write_failure
from halfpint.errors import CheckpointError, UsageError
from halfpint.formats.plain import Plain
from halfpint.tensors import Array, QuantizedTensor

Declared = Mapping[str, tuple[str, tuple[int, ...]]]
"""Stored tensors by name: dtype word of safetensors, and shape."""

_METADATA = {"format": "pt"}
"""Loaders refuse files that do not say for which framework their tensors are laid out."""


class Slot(Protocol):
    """How one output tensor lies in safetensors files."""

    @property
    def tensor(self) -> OutputTensor:
        """What it is."""

    def stored(self) -> Declared:
        """The stored tensors that it consists of."""

    def constants(self) -> Mapping[str, Array]:
        """Stored tensors whose values are known beforehand."""

    def pieces(self, start_row: int, values: QuantizedTensor | Array) -> Iterable[tuple[str, int, Array]]:
        """Turn rows into (stored tensor, first row of it, values)."""


@dataclass(frozen=True, slots=True)
class PlainSlot:
    """A tensor stored as one array under its own name."""

    tensor: OutputTensor
    dtype: str

    @classmethod
    def of(cls, tensor: OutputTensor) -> PlainSlot:
        """Choose the dtype from the format, or keep the source's."""
        return cls(tensor, tensor.format.name.upper() if isinstance(tensor.format, Plain) else tensor.dtype)

    def stored(self) -> Declared:
        """Itself."""
        return {self.tensor.name: (self.dtype, self.tensor.shape)}

    def constants(self) -> Mapping[str, Array]:
        """Nothing is known beforehand."""
        return {}

    def pieces(self, start_row: int, values: QuantizedTensor | Array) -> Iterable[tuple[str, int, Array]]:
        """Take the values as they are; they must have the declared dtype."""
        array = values.parts["values"] if isinstance(values, QuantizedTensor) else values
        shape = self.tensor.shape
        # A plain format speaks of [rows, columns]; vectors and stacks keep the shape that they have.
        array = array.reshape((-1, *shape[1:]) if shape and array.size else (shape or ()))
        if array.dtype != DTYPES[self.dtype]:
            raise UsageError(f"tensor {self.tensor.name!r} was declared {self.dtype}, but {array.dtype} came")
        yield self.tensor.name, start_row, array


def plan_shards(slots: Sequence[Slot], shard_bytes: int) -> Mapping[str, SafetensorsLayout]:
    """Distribute tensors over files of at most about `shard_bytes`, in order, each tensor's parts together.

    Returns
    -------
    Mapping of str to SafetensorsLayout
        By file name: `model.safetensors`, or `model-00001-of-00003.safetensors` and so on.
    """
    groups: list[dict[str, tuple[str, tuple[int, ...]]]] = [{}]
    filled = 0
    seen: set[str] = set()
    for slot in slots:
        declared = slot.stored()
        for name in declared:
            if name in seen:
                raise UsageError(f"the output would hold the tensor {name!r} twice")
            seen.add(name)
        count = sum(_bytes(dtype, shape) for dtype, shape in declared.values())
        if filled and filled + count > shard_bytes:
            groups.append({})
            filled = 0
        groups[-1].update(declared)
        filled += count
    names = [f"model-{i + 1:05d}-of-{len(groups):05d}.safetensors" for i in range(len(groups))]
    if len(groups) == 1:
        names = [SINGLE_NAME]
    layouts = {name: SafetensorsLayout(group, _METADATA) for name, group in zip(names, groups, strict=True)}
    return MappingProxyType(layouts)


class FolderWriter:
    """A `Writer` of a folder; see `halfpint.checkpoints.checkpoint` for what each method promises.

    Parameters
    ----------
    staging : Staging
        Where it grows. What an earlier writer of the same tensors left there stays; side files are written anew.
    source : Checkpoint
    slots : sequence of Slot
    layouts : Mapping of str to SafetensorsLayout
        As `plan_shards` gave them for these slots.
    config : Mapping
        What config.json will say.
    """

    __slots__ = ("_added", "_coverage", "_files", "_slots", "_staging")

    def __init__(
        self,
        staging: Staging,
        source: Checkpoint,
        slots: Sequence[Slot],
        layouts: Mapping[str, SafetensorsLayout],
        config: Mapping[str, Any],
    ) -> None:
        self._slots = {slot.tensor.name: slot for slot in slots}
        self._coverage = RowCoverage({slot.tensor.name: _rows(slot.tensor.shape) for slot in slots})
        self._files: dict[str, SafetensorsWriter] = {}
        self._added: set[str] = set()
        self._staging = staging
        check_apart(staging.target, source.path)
        staging.begin(folder=True)
        try:
            self._write_side_files(source, config)
            self._write_index(layouts)
            self._open_files(layouts)
        except BaseException:
            self._close()
            raise

    def write(self, name: str, start_row: int, values: QuantizedTensor | Array) -> QuantizedTensor | Array:
        """Store rows [start_row, start_row + rows) of a tensor; they read back as they are."""
        slot = self._slots.get(name)
        if slot is None:
            raise UsageError(f"tensor {name!r} was not declared when the output was begun")
        if isinstance(values, QuantizedTensor) and values.format != slot.tensor.format:
            wanted = slot.tensor.format.name if slot.tensor.format else "a copy"
            raise UsageError(f"tensor {name!r} was declared {wanted}, but {values.format.name} came")
        rows = _rows_given(slot.tensor.shape, values)
        self._coverage.add(name, start_row, rows)
        for stored, row, array in slot.pieces(start_row, values):
            self._files[stored].write_rows(stored, row, array)
        return values

    def keep_rows(self, name: str, start_row: int, end_row: int) -> None:
        """Take it that rows [start_row, end_row) of a tensor are there already."""
        self._coverage.add(name, start_row, end_row - start_row)

    def add_file(self, name: str, data: bytes) -> None:
        """Store a side file that the source does not have, such as a tokenizer.json made from GGUF metadata.

        Raises
        ------
        UsageError
            If the name is not plain, or is taken already.
        """
        if not is_plain_name(name) or name in self._added or name in {file.path.name for file in self._files.values()}:
            raise UsageError(f"{name!r} cannot be added to {self._staging.target}: no plain name, or there already")
        self._put_file(name, data)

    def finish(self) -> Path:
        """Check that every row of every tensor was written, sync to disk, rename."""
        self._coverage.check_complete()
        self._close()
        return self._staging.publish()

    def leave(self) -> None:
        """Leave what was written aside for a later writer."""
        self._close()
        self._staging.leave()

    def abandon(self) -> None:
        """Remove what was written aside."""
        self._close()
        self._staging.abandon()

    def _close(self) -> None:
        for file in set(self._files.values()):
            file.close()

    def _write_side_files(self, source: Checkpoint, config: Mapping[str, Any]) -> None:
        if source.path.is_dir():
            for path in side_files(source.path):
                self._put_file(path.name, read_side_file(source.path, path))
        if config:
            self._put_file(CONFIG_NAME, config_text(config))

    def _put_file(self, name: str, data: bytes) -> None:
        path = self._staging.path / name
        try:
            path.write_bytes(data)
        except OSError as error:
            raise write_failure(path, error) from error
        self._added.add(name)

    def _write_index(self, layouts: Mapping[str, SafetensorsLayout]) -> None:
        if len(layouts) < 2:
            return
        weight_map = {name: file for file, layout in layouts.items() for name in layout.entries}
        total = sum(entry.end - entry.begin for layout in layouts.values() for entry in layout.entries.values())
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        self._put_file(INDEX_NAME, json.dumps(index, indent=2).encode() + b"\n")

    def _open_files(self, layouts: Mapping[str, SafetensorsLayout]) -> None:
        folder = self._staging.path
        check_room(folder, sum(missing_bytes(folder / name, layout.size) for name, layout in layouts.items()))
        for file_name, layout in layouts.items():
            writer = SafetensorsWriter(folder / file_name, layout, resume=True)
            self._files.update(dict.fromkeys(layout.entries, writer))
        for slot in self._slots.values():
            for name, array in slot.constants().items():
                self._files[name].write_rows(name, 0, array)


def config_text(config: Mapping[str, Any]) -> bytes:
    """Write config.json: two spaces of indent, keys in their order.

    `auto_map` and `trust_remote_code` are left out: the programs they name are never copied.
    """
    kept = {key: value for key, value in config.items() if key not in {"auto_map", "trust_remote_code"}}
    # Infinity and NaN, which some configurations hold, are written as they were read.
    text = json.dumps(kept, indent=2, ensure_ascii=False, default=_plain_value)
    return text.encode("utf-8") + b"\n"


def _plain_value(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    raise CheckpointError(f"the source's configuration holds a {type(value).__name__}, which JSON cannot say")


def _bytes(dtype: str, shape: tuple[int, ...]) -> int:
    return DTYPES[dtype].itemsize * math.prod(shape)


def _rows(shape: tuple[int, ...]) -> int:
    return shape[0] if shape else 1


def _rows_given(shape: tuple[int, ...], values: QuantizedTensor | Array) -> int:
    """Count rows of the declared tensor in what came."""
    if isinstance(values, QuantizedTensor):
        # A vector in a plain format comes as [1, n] or as [n, 1]; its rows are its elements.
        return values.shape[0] if len(shape) == 2 else values.shape[0] * values.shape[1] // _row_elements(shape)
    return values.shape[0] if shape else 1


def _row_elements(shape: tuple[int, ...]) -> int:
    count = math.prod(shape[1:])
    return max(count, 1)
