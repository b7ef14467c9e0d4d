"""A folder of safetensors files, or a single file, as a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from halfpint.checkpoints.adaptation import adapted
from halfpint.checkpoints.shards import Shards
from halfpint.checkpoints.stored import StoredTensor
from halfpint.errors import UsageError
from halfpint.tensors import Array, QuantizedTensor, TensorSpec


class FolderCheckpoint:
    """A `Checkpoint` over safetensors files; see `halfpint.checkpoints.checkpoint` for what each member promises."""

    __slots__ = ("_shards", "_stored", "config", "container", "notes", "path", "tensors")

    def __init__(
        self,
        path: Path,
        container: str,
        config: Mapping[str, Any],
        shards: Shards,
        stored: Mapping[str, StoredTensor],
    ) -> None:
        self.path = path
        self.container = container
        self._shards = shards
        self.config, self._stored, notes = adapted(config, stored)
        self.notes = (*shards.notes, *notes)
        self.tensors: Mapping[str, TensorSpec] = MappingProxyType(
            {name: tensor.spec for name, tensor in self._stored.items()}
        )

    @property
    def files(self) -> tuple[Path, ...]:
        """The safetensors files."""
        return tuple(file.path for file in self._shards.files)

    @property
    def weight_bytes(self) -> int:
        """Bytes of the safetensors files."""
        return self._shards.size

    def read(self, name: str, start_row: int = 0, end_row: int | None = None) -> Array | QuantizedTensor:
        """Read rows [start_row, end_row) of a tensor's first axis."""
        tensor = self._stored.get(name)
        if tensor is None:
            raise UsageError(f"{self.path} has no tensor {name!r}")
        rows = tensor.spec.shape[0] if tensor.spec.shape else 1
        end_row = rows if end_row is None else end_row
        if not 0 <= start_row <= end_row <= rows:
            raise UsageError(f"tensor {name!r} has {rows} rows; {start_row} to {end_row} are wanted")
        return tensor.read(start_row, end_row)

    def allow_changes(self) -> None:
        """Read files that this process writes to meanwhile."""
        for file in self._shards.files:
            file.allow_changes()

    def check_unchanged(self) -> None:
        """Refuse files that were written to since they were opened."""
        for file in self._shards.files:
            file.check_unchanged()

    def close(self) -> None:
        """Release all files."""
        self._shards.close()
