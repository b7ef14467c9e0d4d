"""The safetensors files of one model: a single file, or shards listed by an index.

Who wrote the index may not be a friend, so a shard is only ever a plain file name inside the folder: no path, no
drive, no address. The named file itself may be a symbolic link, because hub caches store every file as one
(`snapshots/REVISION/model.safetensors -> ../../blobs/HASH`); whatever it leads to must be a regular file and a
valid safetensors file holding exactly the tensors that the index promises.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from halfpint.checkpoints.safetensors_file import SafetensorsFile
from halfpint.checkpoints.strict_json import read_json_object
from halfpint.errors import CheckpointError, UnsupportedError

SINGLE_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
LARGEST_INDEX = 50_000_000
"""Bytes; 200,000 tensors take about 15 MB."""

_LEADING_DOTS = re.compile(r"^(\./)+")
_PICKLE_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"})


@dataclass(frozen=True, slots=True)
class Shards:
    """All files of a model, open and checked against each other.

    Attributes
    ----------
    files : tuple of SafetensorsFile
    owners : Mapping of str to SafetensorsFile
        Which file holds a tensor; ordered by file, and by offset within it.
    notes : tuple of str
        Tensors of the files that the index does not use.
    """

    files: tuple[SafetensorsFile, ...]
    owners: Mapping[str, SafetensorsFile]
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    def close(self) -> None:
        """Release all files."""
        for file in self.files:
            file.close()


def open_shards(path: Path) -> Shards:
    """Open a `.safetensors` file, or the shards of a folder.

    Raises
    ------
    CheckpointError
        If a file is missing or broken, the index leaves the folder, or index and files disagree.
    UnsupportedError
        If the folder holds pickles only.
    """
    if not path.is_dir():
        return _merge([SafetensorsFile(path)])
    index, single = path / INDEX_NAME, path / SINGLE_NAME
    # lexists is meant: a dangling link is an error to report, not a reason to look elsewhere.
    if index.exists() or index.is_symlink():
        if single.exists():
            raise CheckpointError(
                f"{path} holds both {SINGLE_NAME} and {INDEX_NAME}, which may be two models; "
                "remove one of them, or name the file to read"
            )
        return _open_indexed(path, index)
    if single.exists() or single.is_symlink():
        return _merge([SafetensorsFile(single)])
    return _merge([SafetensorsFile(_only_safetensors(path))])


def has_safetensors(folder: Path) -> bool:
    """Whether a folder looks like it holds a model in safetensors or, to be refused with advice, in pickles."""
    try:
        return any(
            child.suffix in {".safetensors", *_PICKLE_SUFFIXES} or child.name == INDEX_NAME
            for child in folder.iterdir()
        )
    except OSError:
        return False


def check_no_pickle(path: Path) -> None:
    """Refuse a path whose name is that of a pickle.

    Raises
    ------
    UnsupportedError
        With advice on how to convert it.
    """
    if path.suffix in _PICKLE_SUFFIXES:
        raise UnsupportedError(
            f"{path} is a pickle, and reading a pickle can run any program hidden in it, so halfpint never "
            "does; if you trust it, convert it on a machine you can lose, with transformers' "
            "model.save_pretrained(folder, safe_serialization=True), and give that folder"
        )


def _only_safetensors(folder: Path) -> Path:
    found = sorted(child for child in folder.iterdir() if child.suffix == ".safetensors")
    if len(found) == 1:
        return found[0]
    if found:
        raise CheckpointError(
            f"{folder} holds {len(found)} safetensors files but neither {SINGLE_NAME} nor {INDEX_NAME}; "
            "name the file to read, or restore the index"
        )
    for child in sorted(folder.iterdir()):
        check_no_pickle(child)
    raise CheckpointError(f"{folder} holds no safetensors file")


def _open_indexed(folder: Path, index: Path) -> Shards:
    promised = _read_weight_map(index)
    names = sorted(set(promised.values()))
    _check_names(names, index)
    files: list[SafetensorsFile] = []
    try:
        for name in names:
            files.append(SafetensorsFile(folder / name))
        shards = _indexed(files, promised, index)
    except BaseException:
        for file in files:
            file.close()
        raise
    return shards


def _read_weight_map(index: Path) -> Mapping[str, str]:
    weight_map = read_json_object(index, LARGEST_INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index}: weight_map is missing, empty, or not an object")
    for tensor, file in weight_map.items():
        if not isinstance(file, str):
            raise CheckpointError(f"{index}: the file of tensor {tensor[:80]!r} is not a string")
    return {tensor: _LEADING_DOTS.sub("", file) for tensor, file in weight_map.items()}


def _check_names(names: list[str], index: Path) -> None:
    folded: dict[str, str] = {}
    for name in names:
        if not is_plain_name(name) or not name.endswith(".safetensors"):
            raise CheckpointError(
                f"{index}: {name[:120]!r} is not the plain name of a .safetensors file in the folder; "
                "paths, drives and addresses are refused"
            )
        other = folded.setdefault(name.casefold(), name)
        if other != name:
            raise CheckpointError(f"{index}: the files {other!r} and {name!r} differ in case only")


def is_plain_name(name: str) -> bool:
    """Whether a name is one plain file name on every system: no separator, drive, control character, or dots only."""
    return (
        0 < len(name.encode("utf-8", "surrogatepass")) <= 255
        and name.strip(". ") != ""
        and not name.startswith("-")
        and name.isprintable()
        and not any(character in '/\\:*?"<>|' for character in name)
    )


def _merge(files: list[SafetensorsFile]) -> Shards:
    owners: dict[str, SafetensorsFile] = {}
    for file in files:
        for name, _ in sorted(file.entries.items(), key=lambda item: item[1][2:]):
            other = owners.setdefault(name, file)
            if other is not file:
                raise CheckpointError(f"the tensor {name[:80]!r} is both in {other.path} and {file.path}")
    return Shards(tuple(files), MappingProxyType(owners))


def _indexed(files: list[SafetensorsFile], promised: Mapping[str, str], index: Path) -> Shards:
    """Take each tensor from the file that the index names; what else the files hold is noted."""
    owners: dict[str, SafetensorsFile] = {}
    notes = []
    for file in files:
        for name, _ in sorted(file.entries.items(), key=lambda item: item[1][2:]):
            here, wanted = file.path.name, promised.get(name)
            if wanted == here:
                owners[name] = file
            elif wanted is not None:
                notes.append(f"{here} holds another {name}, which is not used: the index names {wanted}")
            else:
                notes.append(f"{here} holds {name}, which is not in the index and not used")
    for name, wanted in promised.items():
        if name not in owners:
            raise CheckpointError(f"{index}: the tensor {name[:80]!r} is not in {wanted}")
    return Shards(tuple(files), MappingProxyType(owners), tuple(notes))
