"""An index and its shards agree, and lead nowhere else, or opening ends in our error."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from small_folders import INDEX, arrays, folder, save

from halfpint.checkpoints import open_checkpoint
from halfpint.errors import CheckpointError


def index(weight_map: object) -> bytes:
    return json.dumps({"weight_map": weight_map}).encode()


HOSTILE_FILE_NAMES = [
    "../model-00001-of-00002.safetensors", "/etc/model.safetensors", "sub/model.safetensors", "C:model.safetensors",
    "C:\\model.safetensors", "\\\\server\\share\\m.safetensors", "..\\m.safetensors", "a\0.safetensors", "", ".", "..",
    "https://example.org/m.safetensors", "file:m.safetensors", "./m.safetensors", "m.safetensors/", "-rf.safetensors",
    INDEX, "config.json", "m.bin", " .safetensors ", "m\n.safetensors", "x" * 300 + ".safetensors", "~/m.safetensors",
    "%2e%2e/m.safetensors", "missing.safetensors", "\ud800.safetensors",
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE_FILE_NAMES)
def test_an_index_never_leads_out_of_its_folder(name: str, tmp_path: Path) -> None:
    path = folder(tmp_path / "model", shards=2)
    content = json.loads((path / INDEX).read_text())
    content["weight_map"]["model.norm.weight"] = name
    (path / INDEX).write_text(json.dumps(content))
    with pytest.raises(CheckpointError):
        open_checkpoint(path)


def _two_names(path: Path) -> tuple[Path, Path]:
    first, second = sorted(path.glob("*.safetensors"))
    return first, second


def _remap(path: Path, changes: dict[str, str | None]) -> None:
    content = json.loads((path / INDEX).read_text())
    for tensor, file in changes.items():
        if file is None:
            del content["weight_map"][tensor]
        else:
            content["weight_map"][tensor] = file
    (path / INDEX).write_text(json.dumps(content))


def _replace_first(path: Path, make: Callable[[Path], object]) -> None:
    first, _ = _two_names(path)
    first.unlink()
    make(first)


def _names_that_differ_in_case(path: Path) -> None:
    first, _ = _two_names(path)
    other = path / f"M{first.name[1:]}"
    other.write_bytes(first.read_bytes())
    _remap(path, {"model.norm.weight": other.name})


CHANGES: dict[str, Callable[[Path], object]] = {
    "tensor only in the index": lambda path: _remap(path, {"model.ghost": _two_names(path)[0].name}),
    "tensors in the other shard": lambda path: _remap(path, dict.fromkeys(arrays(), _two_names(path)[0].name)),
    "names that differ in case": _names_that_differ_in_case,
    "shard is a folder": lambda path: _replace_first(path, Path.mkdir),
    "shard is a device": lambda path: _replace_first(path, lambda first: first.symlink_to("/dev/zero")),
    "shard is a pipe": lambda path: _replace_first(path, os.mkfifo),
    "shard is missing": lambda path: _two_names(path)[0].unlink(),
    "single file beside the index": lambda path: save(path / "model.safetensors", {}),
    "shard is cut": lambda path: os.truncate(_two_names(path)[0], 300),
}


@pytest.mark.parametrize("change", CHANGES)
def test_index_and_shards_must_agree(change: str, tmp_path: Path) -> None:
    path = folder(tmp_path / "model", shards=2)
    open_checkpoint(path).close()
    CHANGES[change](path)
    with pytest.raises(CheckpointError):
        open_checkpoint(path)


def test_the_index_decides_which_copy_counts(tmp_path: Path) -> None:
    path = folder(tmp_path / "model", shards=2)
    new = np.full(16, 7, np.float32)
    save(path / "overlay.safetensors", {"model.norm.weight": new, "left.over": np.zeros(2, np.float32)})
    _remap(path, {"model.norm.weight": "././overlay.safetensors"})
    checkpoint = open_checkpoint(path)
    assert np.array_equal(checkpoint.read("model.norm.weight"), new)
    assert set(checkpoint.tensors) == set(arrays())
    assert len(checkpoint.notes) == 2
    assert any("another model.norm.weight" in note and "overlay" in note for note in checkpoint.notes)
    assert any("left.over" in note for note in checkpoint.notes)


@pytest.mark.parametrize("name", ["../overlay.safetensors", "./../overlay.safetensors", ".//etc/x.safetensors"])
def test_paths_stay_in_the_folder(name: str, tmp_path: Path) -> None:
    path = folder(tmp_path / "model", shards=2)
    save(tmp_path / "overlay.safetensors", {"model.norm.weight": np.zeros(16, np.float32)})
    _remap(path, {"model.norm.weight": name})
    with pytest.raises(CheckpointError, match="plain name"):
        open_checkpoint(path)


def test_tensors_that_the_index_leaves_out_are_noted(tmp_path: Path) -> None:
    path = folder(tmp_path / "model", shards=2)
    _remap(path, {"model.norm.weight": None})
    checkpoint = open_checkpoint(path)
    assert set(checkpoint.tensors) == set(arrays()) - {"model.norm.weight"}
    assert "model.norm.weight" in checkpoint.notes[0]


@pytest.mark.parametrize(
    "content",
    [b"{}", b'{"weight_map":[]}', b'{"weight_map":{}}', b'{"weight_map":null}', index({"a": 1}), index({"a": None})],
)
def test_an_index_without_a_map_is_refused(content: bytes, tmp_path: Path) -> None:
    path = folder(tmp_path / "model", shards=2)
    (path / INDEX).write_bytes(content)
    with pytest.raises(CheckpointError, match=r"index\.json"):
        open_checkpoint(path)


def test_a_broken_file_is_named_by_the_path_that_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has ten folders that each hold a model.safetensors must know which of them is broken."""
    monkeypatch.chdir(tmp_path)
    broken = {"config.json": b"{", "model.safetensors": b"short", "model.gguf": b"GGUF\3\0\0\0"}
    for name, data in broken.items():
        path = folder(Path(f"model with a broken {name}"))
        (path / name).write_bytes(data)
        with pytest.raises(CheckpointError) as told:
            open_checkpoint(path / name if name.endswith(".gguf") else path)
        assert str(path / name) in str(told.value)
