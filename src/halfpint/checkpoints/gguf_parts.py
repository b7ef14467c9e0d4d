"""The file or files of one GGUF model: a whole file, or the parts that llama.cpp's gguf-split makes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from halfpint.checkpoints.gguf_header import GgufTensor, Header, read_header
from halfpint.checkpoints.gguf_metadata import Metadata
from halfpint.checkpoints.regular_file import RegularFile
from halfpint.errors import CheckpointError

MOST_PARTS = 4_096
"""Parts of one model; the largest published ones have some dozens."""

_PART_NAME = re.compile(r"(?P<stem>.*)-(?P<number>[0-9]{5})-of-(?P<count>[0-9]{5})\.gguf", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Part:
    """One open file and its checked header."""

    file: RegularFile
    header: Header


def open_parts(path: Path) -> tuple[Part, ...]:
    """Open a GGUF file and, when it is the first of several, all others beside it.

    Raises
    ------
    CheckpointError
        If a header is wrong, a part is missing, or the parts do not belong together.
    """
    first = _open(path)
    parts = [first]
    try:
        count = first.header.metadata.integer("split.count") or 1
        if count > 1:
            for number, part_path in enumerate(_part_paths(path, first.header.metadata, count)[1:], 1):
                parts.append(_open(part_path))
                _check_part(parts[-1], number, count)
            _check_total(first.header.metadata, parts)
    except BaseException:
        for part in parts:
            part.file.close()
        raise
    return tuple(parts)


def _open(path: Path) -> Part:
    file = RegularFile(path)
    try:
        return Part(file, read_header(file))
    except BaseException:
        file.close()
        raise


def _part_paths(path: Path, metadata: Metadata, count: int) -> list[Path]:
    """Names of the parts, made of the first one's name and numbers alone: nothing in a file can point elsewhere."""
    match = _PART_NAME.fullmatch(path.name)
    if match is None or int(match["count"]) != count:
        raise CheckpointError(
            f"{path} says that it is one of {count} parts, but is not named so; parts are named "
            f"NAME-00001-of-{min(count, 99_999):05}.gguf: give it its name back"
        )
    number = metadata.integer("split.no")
    if number != int(match["number"]) - 1:
        raise CheckpointError(f"{path} says that it is part number {number} (from 0), which its name contradicts")
    stem = match["stem"]
    paths = [path.with_name(f"{stem}-{part + 1:05}-of-{count:05}.gguf") for part in range(min(count, MOST_PARTS))]
    if number != 0:
        raise CheckpointError(f"{path} is part {number + 1} of {count}; open the first, {paths[0]}")
    if count > MOST_PARTS:
        raise CheckpointError(f"{path} says that it is one of {count} parts; more than {MOST_PARTS} are not read")
    return paths


def _check_part(part: Part, number: int, count: int) -> None:
    metadata = part.header.metadata
    if metadata.integer("split.no") != number or metadata.integer("split.count") != count:
        raise CheckpointError(
            f"{metadata.file} should be part {number + 1} of {count}, but says that it is part number "
            f"{metadata.integer('split.no')} (from 0) of {metadata.integer('split.count')}"
        )


def _check_total(metadata: Metadata, parts: list[Part]) -> None:
    names: set[str] = set()
    for part in parts:
        twice = names & set(part.header.tensors)
        if twice:
            raise CheckpointError(f"{part.file.path}: tensor {min(twice)!r} is in an earlier part, too")
        names |= set(part.header.tensors)
    said = metadata.integer("split.tensors.count")
    if said is not None and said != len(names):
        raise CheckpointError(f"{metadata.file} says that all parts hold {said} tensors, but they hold {len(names)}")


def stored_tensors(parts: tuple[Part, ...]) -> Mapping[str, tuple[RegularFile, GgufTensor]]:
    """Every tensor of all parts, in file order, with the file that holds it."""
    return {name: (part.file, tensor) for part in parts for name, tensor in part.header.tensors.items()}
