"""The journal of a job: which job it is, and one line for every tensor that is finished.

Each line is a JSON object `{"crc32": ..., "record": ...}`, the sum being taken over the record's bytes. Lines go to the
kernel as soon as a tensor is written, so a killed process loses none; what a power cut tears or drops is found by the
sums, here and in the output, and done again.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from halfpint.checkpoints.staging import write_failure
from halfpint.pipeline.results import TensorOutcome
from halfpint.plans import PlannedTensor

JOURNAL_NAME = "journal.jsonl"

_FINGERPRINT, _TENSOR = "fingerprint", "tensor"

Record = Mapping[str, Any]


class Journal:
    """A journal being written.

    Parameters
    ----------
    path : Path
        Replaced as a whole, when this object is made, by the fingerprint and the tensors that are finished already.
    fingerprint : Mapping
    finished : iterable of TensorOutcome

    Raises
    ------
    RoomError, CheckpointError
        If it cannot be written.
    """

    __slots__ = ("_descriptor", "_path")

    def __init__(self, path: Path, fingerprint: Record, finished: Iterable[TensorOutcome]) -> None:
        self._path = path
        self._descriptor = -1
        made = path.with_suffix(".new")
        lines = [_line({_FINGERPRINT: fingerprint}), *(_line({_TENSOR: _to_record(item)}) for item in finished)]
        try:
            made.write_bytes(b"".join(lines))
            made.replace(path)
            self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise write_failure(path, error) from error

    def add(self, outcome: TensorOutcome) -> None:
        """Note that a tensor is finished.

        Raises
        ------
        RoomError, CheckpointError
            If the line cannot be written; half of it may stand there then, and is ignored by `read`.
        """
        left = memoryview(_line({_TENSOR: _to_record(outcome)}))
        try:
            while left:
                left = left[os.write(self._descriptor, left) :]
        except OSError as error:
            raise write_failure(self._path, error) from error

    def close(self) -> None:
        """Release the file; safe to call again."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def read(path: Path) -> tuple[Record | None, list[Record]]:
    """Read what a journal says; lines that are torn or damaged are left out.

    Returns
    -------
    fingerprint : Mapping or None
        None when there is no journal, or its beginning is lost.
    records : list of Mapping
        Of finished tensors, in order; `outcome_of` understands them.
    """
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return None, []
    records = [record for record in map(_record, lines) if record is not None]
    if not records or _FINGERPRINT not in records[0]:
        return None, []
    return records[0][_FINGERPRINT], [record[_TENSOR] for record in records if _TENSOR in record]


def outcome_of(record: Record, planned: Mapping[str, PlannedTensor]) -> TensorOutcome:
    """Turn a record of `read` into the outcome that it tells of; the fingerprint of the job must be the same."""
    return TensorOutcome(
        planned=planned[record["name"]],
        relative_error=record["relative_error"],
        seconds=record["seconds"],
        checksums=tuple((start, end, crc) for start, end, crc in record["checksums"]),
        source_hash=record["source_hash"],
        losses=record["losses"],
        note=record["note"],
    )


def _to_record(outcome: TensorOutcome) -> Record:
    return {
        "name": outcome.planned.name,
        "relative_error": outcome.relative_error,
        "seconds": outcome.seconds,
        "checksums": outcome.checksums,
        "source_hash": outcome.source_hash,
        "losses": dict(outcome.losses),
        "note": outcome.note,
    }


def _line(record: Record) -> bytes:
    body = _body(record)
    return b'{"crc32":%d,"record":%s}\n' % (zlib.crc32(body), body)


def _body(record: Record) -> bytes:
    return json.dumps(record, separators=(",", ":")).encode("ascii")


def _record(line: bytes) -> Record | None:
    """Check a line; None when it is not whole."""
    try:
        whole = json.loads(line)
    except ValueError:
        return None
    if not isinstance(whole, dict) or not isinstance(whole.get("record"), dict):
        return None
    record: Record = whole["record"]
    # Numbers and the order of keys survive the way through JSON, so the bytes can be made again.
    return record if whole.get("crc32") == zlib.crc32(_body(record)) else None
