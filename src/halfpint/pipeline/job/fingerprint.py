"""What a job is, in a few words and hashes: two jobs with the same fingerprint write the same bytes.

Where the source lies does not matter, what it holds does. Where each weight is rounded by itself, weights are not read
whole for that: sizes, samples and the time of the last change tell a changed file. When the time alone differs (a model
that was copied, say), the job must compare the contents of what it has read before: `halfpint.pipeline.job.resuming`.
Where text passes through the model, a weight may depend on all others, and everything is read.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from halfpint.checkpoints.checkpoint import Checkpoint
from halfpint.checkpoints.side_files import read_side_file, side_files
from halfpint.plans import Plan, PlannedTensor
from halfpint.version import __version__

# The head of a file holds its header; the samples behind it are spread evenly, the last one at the very end.
_HEAD_BYTES = 1 << 20
_SAMPLES = 32
_SAMPLE_BYTES = 1 << 14

_TIMES = ("modified_ns", "changed_ns")
_SECRET = "sha256"
_MOST_WORDS = 3


def fingerprint(source: Checkpoint, plan: Plan, settings: Mapping[str, Any], *, whole: bool = False) -> dict[str, Any]:
    """Describe a job.

    Parameters
    ----------
    source : Checkpoint
    plan : Plan
    settings : Mapping of str to Any
        What else decides about the bytes, such as the calibration text; values that JSON can say.
    whole : bool
        Whether every byte of the weights counts, and not sizes and samples alone.

    Returns
    -------
    dict
        Nested, of strings and integers; the same after a way through JSON.
    """
    config = json.dumps(dict(source.config), sort_keys=True, default=_plain)
    described = {
        "halfpint": {"version": __version__},
        "output": {"container": plan.container},
        "source": {"name": source.path.resolve().name, "configuration": {_SECRET: _sha256(config.encode())}},
        "files": {path.name: _file(path, whole) for path in source.files},
        "side files": dict(_side_files(source)),
        "plan": {tensor.name: _words(tensor) for tensor in plan.tensors},
        "settings": dict(settings),
    }
    same: dict[str, Any] = json.loads(json.dumps(described))
    return same


def model_fingerprint(source: Checkpoint) -> str:
    """Tell a model from all others: a hash of its configuration, and of sizes and samples of its weight files."""
    config = json.dumps(dict(source.config), sort_keys=True, default=_plain)
    files = [{key: value for key, value in _file(path).items() if key not in _TIMES} for path in source.files]
    return _sha256(json.dumps([config, files]).encode())


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Say what differs between two fingerprints, in words; times of files do not count."""
    one, other = dict(_flat(before)), dict(_flat(now))
    return [_difference(path, one, other) for path in _differing(one, other) if path[-1] not in _TIMES]


def touched(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether a file of the source was written, or copied, after the first fingerprint was taken."""
    return any(path[-1] in _TIMES for path in _differing(dict(_flat(before)), dict(_flat(now))))


def summary(said: list[str]) -> str:
    """Some differences in one line."""
    more = f", and {len(said) - _MOST_WORDS} more" if len(said) > _MOST_WORDS else ""
    return "; ".join(said[:_MOST_WORDS]) + more


def _file(path: Path, whole: bool = False) -> dict[str, Any]:
    content = hashlib.sha256()
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        if whole:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return {"bytes": status.st_size, "content": {_SECRET: digest}, **_times(status)}
        content.update(file.read(_HEAD_BYTES))
        last = status.st_size - _SAMPLE_BYTES
        for number in range(1, _SAMPLES + 1):
            offset = last * number // _SAMPLES
            if offset >= _HEAD_BYTES:
                file.seek(offset)
                content.update(file.read(_SAMPLE_BYTES))
    return {"bytes": status.st_size, "sample": {_SECRET: content.hexdigest()}, **_times(status)}


def _times(status: os.stat_result) -> dict[str, int]:
    """Times of the last write, which programs can put back, and of the last change of anything, which they cannot."""
    return dict(zip(_TIMES, (status.st_mtime_ns, status.st_ctime_ns), strict=True))


def _side_files(source: Checkpoint) -> Iterator[tuple[str, dict[str, str]]]:
    if source.path.is_dir():
        for path in side_files(source.path):
            yield path.name, {_SECRET: _sha256(read_side_file(source.path, path))}


def _words(tensor: PlannedTensor) -> str:
    form = "a copy" if tensor.format is None else tensor.format.name
    return f"{form} by {tensor.solver}, {'x'.join(map(str, tensor.shape))}, {tensor.nbytes} bytes"


_Flat = Mapping[tuple[str, ...], Any]


def _flat(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, Mapping):
        for key in value:
            yield from _flat(value[key], (*path, key))
    else:
        yield path, value


def _differing(one: _Flat, other: _Flat) -> list[tuple[str, ...]]:
    return [path for path in {**one, **other} if path not in one or path not in other or one[path] != other[path]]


def _difference(path: tuple[str, ...], one: _Flat, other: _Flat) -> str:
    name = " ".join(path[:-1] if path[-1] == _SECRET else path)
    if path not in other:
        return f"{name} is gone"
    if path not in one:
        return f"{name} is new"
    return f"{name} has changed" if path[-1] == _SECRET else f"{name} was {one[path]} and is {other[path]}"


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _plain(value: object) -> object:
    return dict(value) if isinstance(value, Mapping) else str(value)
