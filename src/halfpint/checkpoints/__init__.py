"""Checkpoints: files seen as name -> tensor, whatever the file convention.

`CONTAINERS` lists the conventions, most specific first; `open_checkpoint` finds the one that a path follows.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np

from halfpint.checkpoints.checkpoint import Checkpoint, Container
from halfpint.checkpoints.compressed_tensors import CompressedTensors
from halfpint.checkpoints.gguf import GGUF
from halfpint.checkpoints.huggingface import HuggingFace
from halfpint.checkpoints.regular_file import read_small_file
from halfpint.checkpoints.shards import check_no_pickle
from halfpint.checkpoints.side_files import LARGEST_CONFIG
from halfpint.checkpoints.strict_json import read_json_object
from halfpint.errors import CheckpointError, UnsupportedError, UsageError
from halfpint.formats import decode
from halfpint.tensors import FloatArray, QuantizedTensor

__all__ = ["CONTAINERS", "open_checkpoint", "read_float32"]

CONTAINERS: Mapping[str, Container] = MappingProxyType(
    {entry.name: entry for entry in (GGUF, CompressedTensors(), HuggingFace())}
)
"""File conventions by the name that the command line uses; the first that recognises a path opens it."""


def open_checkpoint(path: Path | str) -> Checkpoint:
    """Open a checkpoint of any known container.

    Parameters
    ----------
    path : Path or str
        A folder, a `.safetensors` file, or a `.gguf` file.

    Raises
    ------
    CheckpointError
        If there is nothing there, it is no known container, or it is broken.
    UnsupportedError
        If it is a pickle, or quantized in a way that is not read.
    """
    path = Path(path)
    try:
        present = path.exists()
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{str(path)!r} cannot be looked at: {error}") from error
    if not present:
        raise CheckpointError(f"{str(path)!r} does not exist")
    path = _snapshot(path)
    _check_no_adapter(path)
    for entry in CONTAINERS.values():
        if entry.recognises(path):
            return entry.open(path)
    check_no_pickle(path)
    raise CheckpointError(
        f"{str(path)!r} is no checkpoint that halfpint knows; give a folder with safetensors in it, "
        "a .safetensors file, or a .gguf file"
    )


def _snapshot(path: Path) -> Path:
    """Of the folder that a hub cache has for a model, the snapshot that its main branch names, or the only one.

    Raises
    ------
    CheckpointError
        If there are several, and no main branch, or if the path is a whole hub cache.
    """
    if path.name == "snapshots" and path.parent.name.startswith("models--"):
        path = path.parent
    if (path / "config.json").exists() or not path.is_dir():
        return path
    if not (path / "snapshots").is_dir():
        models = sorted(child for child in path.glob("models--*") if (child / "snapshots").is_dir())
        if models:
            raise CheckpointError(
                f"{path} is a hub cache, not a model; name a model in it ({len(models)} found): "
                f"{', '.join(str(child) for child in models[:5])}"
            )
        return path
    if not (path / "refs").is_dir() and not path.name.startswith("models--"):
        return path
    found = sorted(child for child in (path / "snapshots").iterdir() if child.is_dir())
    main = path / "refs" / "main"
    if main.is_file():
        revision = read_small_file(main, 1024).decode("ascii", "replace").strip()
        found = [child for child in found if child.name == revision] or found
    if len(found) == 1:
        return found[0]
    raise CheckpointError(
        f"{path} is a model's folder in a hub cache with {len(found)} snapshots; name one of them: "
        f"{', '.join(str(child) for child in found[:5]) or 'none is there'}"
    )


def _check_no_adapter(path: Path) -> None:
    folder = path.parent if path.name == "adapter_model.safetensors" else path
    if not (folder / "adapter_config.json").is_file():
        return
    # A model's folder may hold an adapter too, and an adapter's the configuration of its base.
    others = any(file.name != "adapter_model.safetensors" for file in folder.glob("*.safetensors"))
    if folder is path and others and (folder / "config.json").exists():
        return
    path = folder
    settings = read_json_object(path / "adapter_config.json", LARGEST_CONFIG)
    base = str(settings.get("base_model_name_or_path") or "its base model")[:200]
    raise UnsupportedError(
        f"{path} is an adapter ({str(settings.get('peft_type') or 'LoRA')[:20]}) of {base}, not a model; merge it "
        "first, with peft's model.merge_and_unload().save_pretrained(FOLDER), and give that folder"
    )


def read_float32(checkpoint: Checkpoint, name: str, start_row: int = 0, end_row: int | None = None) -> FloatArray:
    """Read rows [start_row, end_row) of a tensor as float32, decoding whatever format it is in.

    Returns
    -------
    float32 array
        [end_row - start_row, ...]; the caller must not write to it.

    Raises
    ------
    UsageError
        If the tensor holds integers, which stand for no weights.
    CheckpointError
        If the bytes are not there any more.
    """
    values = checkpoint.read(name, start_row, end_row)
    if isinstance(values, QuantizedTensor):
        return decode(values)
    if values.dtype.kind in "biu":
        raise UsageError(f"tensor {name!r} holds {values.dtype}, not floating-point weights")
    return values.astype(np.float32, copy=False)
