"""Fuzz the shard index of a folder: `python fuzz/fuzz_index.py --seconds 600`.

Whatever the index says, only files of its own folder are opened, and an accepted one promises exactly their tensors.
"""

import json
import tempfile
from pathlib import Path

import harness
import mutation
import numpy as np

from halfpint.checkpoints.safetensors_file import SafetensorsLayout, SafetensorsWriter
from halfpint.checkpoints.shards import INDEX_NAME, open_shards

FILES = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
TENSORS = (("a.weight", "b.weight"), ("c.weight",))
WEIGHT_MAP = {name: FILES[i] for i in range(2) for name in TENSORS[i]}
SEEDS = (
    json.dumps({"metadata": {"total_size": 24}, "weight_map": WEIGHT_MAP}).encode(),
    json.dumps({"weight_map": WEIGHT_MAP}, separators=(",", ":")).encode(),
)
DICTIONARY = (
    b"../", b"..", b"/", b"\\\\", b"C:", b"https://", b"\\u002e\\u002e/", b"\\u0000", b"outside.safetensors",
    b"link.safetensors", b"folder.safetensors", *(name.encode() for name in FILES), b'"weight_map":',
    b'"a.weight":', b".safetensors", b"{", b"}", b"[", b"]", b",", b":", b'"', b"null", b"1", b"true", b"NaN",
    b"\\ud800", b"\xff", b" ",
)  # fmt: skip


class EscapeError(Exception):
    """A file outside of the folder was opened, or index and files disagree."""


def target(data: bytes) -> None:
    """Open the folder with this index."""
    (MODEL / INDEX_NAME).write_bytes(data)
    shards = open_shards(MODEL)
    try:
        names = {file.path.name for file in shards.files}
        if names != set(FILES) or any(file.path.parent != MODEL for file in shards.files):
            raise EscapeError(f"opened {sorted(names)}")
        if set(shards.owners) != set(WEIGHT_MAP) or set(json.loads(data)["weight_map"]) != set(WEIGHT_MAP):
            raise EscapeError(f"tensors {sorted(shards.owners)}")
    finally:
        shards.close()


def save(path: Path, names: tuple[str, ...]) -> None:
    """Write a file of one-element tensors."""
    writer = SafetensorsWriter(path, SafetensorsLayout(dict.fromkeys(names, ("F32", (1,))), {}))
    for name in names:
        writer.write_rows(name, 0, np.ones(1, np.float32))
    writer.close()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        MODEL = Path(folder) / "model"
        MODEL.mkdir()
        (MODEL / "folder.safetensors").mkdir()
        save(Path(folder) / "outside.safetensors", ("a.weight",))
        for file, names in zip(FILES, TENSORS, strict=True):
            save(MODEL / file, names)
        harness.main(target, mutation.maker(SEEDS, DICTIONARY))
