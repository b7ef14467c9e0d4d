"""The files beside the weights: configuration, tokenizer, templates, licence."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from halfpint.checkpoints.regular_file import read_small_file
from halfpint.checkpoints.strict_json import read_json_object
from halfpint.errors import CheckpointError

CONFIG_NAME = "config.json"
LARGEST_CONFIG = 4_000_000
"""Bytes; ordinary configurations have a few thousand, those with per-module quantization some hundred thousand."""

LARGEST_SIDE_FILE = 256_000_000
"""Bytes; the largest tokenizer.json in use has about 35 million."""

_SUFFIXES = frozenset({".json", ".txt", ".model", ".jinja", ".md", ".tiktoken"})
_BARE_NAMES = frozenset({"LICENSE", "LICENCE", "NOTICE", "README", "COPYING", "USE_POLICY"})
# What other quantizers say of the source would be untrue of the output.
_STALE = frozenset({"quantize_config.json", "quant_config.json", "hf_quant_config.json", "recipe.yaml"})


def read_config(folder: Path) -> Mapping[str, Any]:
    """Read a folder's config.json; empty when there is none.

    Nothing that it says is ever imported or run: `auto_map` and `trust_remote_code` are words like any other.

    Raises
    ------
    CheckpointError
        If it is not strict JSON of bounded size.
    """
    path = folder / CONFIG_NAME
    if not os.path.lexists(path):
        return MappingProxyType({})
    return MappingProxyType(dict(read_json_object(path, LARGEST_CONFIG)))


def side_files(folder: Path) -> tuple[Path, ...]:
    """List the files that an output takes over byte for byte, sorted by name.

    Tokenizer, templates, texts and settings; never weights, indexes, config.json, programs or pickles.
    """
    return tuple(sorted(path for path in folder.iterdir() if _wanted(path) and not path.is_dir()))


def read_side_file(folder: Path, path: Path) -> bytes:
    """Read a side file that is to be copied.

    Raises
    ------
    CheckpointError
        If it is not a regular file of bounded size, or is a link that leads out of the folder (and out of the hub
        cache, when the folder is in one): copying would publish a file that is no part of the model.
    """
    resolved = path.resolve()
    if not any(root in resolved.parents for root in _roots(folder.resolve())):
        raise CheckpointError(
            f"{path} is a link to {resolved}, outside of the model's folder; "
            "put the file itself into the folder, or remove the link"
        )
    return read_small_file(path, LARGEST_SIDE_FILE)


def _wanted(path: Path) -> bool:
    name = path.name
    if name.startswith(".") or name == CONFIG_NAME or name.endswith(".index.json") or name in _STALE:
        return False
    return path.suffix in _SUFFIXES or name in _BARE_NAMES


def _roots(folder: Path) -> tuple[Path, ...]:
    # Hub caches keep snapshots/REVISION/NAME as links to blobs/HASH.
    if folder.parent.name == "snapshots":
        return folder, folder.parent.parent / "blobs"
    return (folder,)
