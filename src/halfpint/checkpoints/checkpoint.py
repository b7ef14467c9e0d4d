"""What every container offers: a checkpoint to read, a layout to plan with, a writer to fill.

Names are those of the model family's Hugging Face folder, whatever the container; a container maps its own names
and row orders to them in both directions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from halfpint.checkpoints.staging import Staging
from halfpint.tensors import Array, Format, QuantizedTensor, TensorSpec


class Checkpoint(Protocol):
    """An open checkpoint: headers are read and checked, weights come on demand.

    Attributes
    ----------
    path : Path
        The folder or file.
    container : str
        A key of `CONTAINERS`.
    config : Mapping
        The model's configuration in the words of Hugging Face's config.json, also when read from GGUF; empty
        when the checkpoint has none.
    tensors : Mapping of str to TensorSpec
        In file order.
    notes : tuple of str
        What is odd about the files and how it was read: copies that are not used, names that were changed.
    """

    @property
    def notes(self) -> tuple[str, ...]: ...  # noqa: D102

    @property
    def path(self) -> Path: ...  # noqa: D102

    @property
    def container(self) -> str: ...  # noqa: D102

    @property
    def config(self) -> Mapping[str, Any]: ...  # noqa: D102

    @property
    def tensors(self) -> Mapping[str, TensorSpec]: ...  # noqa: D102

    @property
    def files(self) -> Sequence[Path]:
        """The weight files, in order."""

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weight files, headers included; side files such as the tokenizer are not counted."""

    def read(self, name: str, start_row: int = 0, end_row: int | None = None) -> Array | QuantizedTensor:
        """Read rows [start_row, end_row) of a tensor's first axis.

        Returns
        -------
        Array or QuantizedTensor
            A plain array in the stored dtype (float32, float16, ml_dtypes.bfloat16, integers ...; the caller
            must not write to it), or a QuantizedTensor when `tensors[name].format` is not a plain float.
            For 128x128-block formats the rows must start and end on multiples of `format.row_multiple`.

        Raises
        ------
        CheckpointError
            If the bytes are not there any more, naming tensor and file.
        """

    def allow_changes(self) -> None:
        """Read files that this process writes to meanwhile: an output while it is made."""

    def check_unchanged(self) -> None:
        """Refuse files that were written to since they were opened, as every reading does: CheckpointError."""

    def close(self) -> None:
        """Release files and maps; reading afterwards is an error."""


@dataclass(frozen=True, slots=True)
class OutputTensor:
    """One tensor to be written: Hugging Face name and shape, and the format (None: copied in its source dtype)."""

    name: str
    shape: tuple[int, ...]
    format: Format | None
    dtype: str
    """The source's dtype word (`BF16`, `I64`), used when `format` is None."""


class Writer(Protocol):
    """An output being written aside; it appears under its own name only when `finish` has returned."""

    def write(self, name: str, start_row: int, values: QuantizedTensor | Array) -> QuantizedTensor | Array:
        """Store rows [start_row, start_row + rows) of a tensor. Rows may come in any order, each once.

        Returns
        -------
        QuantizedTensor or Array
            What will be read back: the values, unless the container stores something rounded that follows from
            them (GGUF holds Gemma's norms with one added).
        """

    def keep_rows(self, name: str, start_row: int, end_row: int) -> None:
        """Take it that rows [start_row, end_row) of a tensor are there already, from an earlier writer.

        Raises
        ------
        UsageError
            If the tensor was not declared so, or the rows came already.
        """

    def finish(self) -> Path:
        """Check that every row of every tensor was written, sync to disk, rename. Returns the output's path.

        Raises
        ------
        VerificationError
            If something declared was not written.
        """

    def leave(self) -> None:
        """Leave what was written aside for a later writer, which may go on with it."""

    def abandon(self) -> None:
        """Remove what was written aside. Safe to call at any time, also after `finish`."""


class Container(Protocol):
    """A file convention: how to recognise, open, plan and write it. A module of `checkpoints` each."""

    @property
    def name(self) -> str: ...  # noqa: D102

    def recognises(self, path: Path) -> bool:
        """Whether the path looks like this container (cheap, from names and magic bytes)."""

    def open(self, path: Path) -> Checkpoint:
        """Open it, every header checked against the files' sizes before anything is allocated."""

    def refusal(self, tensor: OutputTensor) -> str | None:
        """Why this container cannot hold the tensor in that format; None when it can."""

    def notes(self, source: Checkpoint) -> tuple[str, ...]:
        """What the container's engines will do otherwise than the source's configuration says; mostly empty."""

    def size(self, source: Checkpoint, outputs: Sequence[OutputTensor]) -> int:
        """Exact bytes of the weight files that `create` with the same arguments will write."""

    def create(
        self,
        path: Path,
        source: Checkpoint,
        outputs: Sequence[OutputTensor],
        *,
        replace: bool = False,
        begun: Staging | None = None,
    ) -> Writer:
        """Begin an output beside `path`; metadata, tokenizer and side files come from the source checkpoint.

        Parameters
        ----------
        path : Path
        source : Checkpoint
        outputs : sequence of OutputTensor
        replace : bool
            Whether something may stand at `path` already; it stays until `finish`.
        begun : Staging or None
            A place that the caller holds for `path`. What an earlier writer with the same arguments has put there
            stays, and `keep_rows` tells which of it counts; when this fails, the place is left as it is.
        """
