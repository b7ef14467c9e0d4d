"""What people take for a model: pointers of Git LFS, adapters, folders of a hub cache, weights without config.json."""

import json
import os
import shutil
from pathlib import Path

import pytest

from halfpint.checkpoints import open_checkpoint
from halfpint.errors import CheckpointError, UnsupportedError
from halfpint.models.opening import demo_folder
from halfpint.pipeline import verbs
from halfpint.pipeline.options import MeasureOptions, QuantizeOptions

POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 123456789\n"
PLAIN = QuantizeOptions(bits=4, calibrate=False, measure=None)


def copy(path: Path) -> Path:
    return Path(shutil.copytree(demo_folder(), path))


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json", "model.gguf"])
def test_a_pointer_of_git_lfs_is_called_one(name: str, tmp_path: Path) -> None:
    folder = copy(tmp_path / "model")
    (folder / name).write_text(POINTER)
    with pytest.raises(CheckpointError, match="pointer of Git LFS"):
        verbs.verify(folder / name if name.endswith("gguf") else folder)


@pytest.mark.parametrize("kind", ["LORA", "IA3", None])
def test_an_adapter_is_called_one(kind: str | None, tmp_path: Path) -> None:
    settings = {"peft_type": kind, "base_model_name_or_path": "org/base"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    shutil.copy(demo_folder() / "model.safetensors", tmp_path / "adapter_model.safetensors")
    with pytest.raises(UnsupportedError, match=r"adapter .* of org/base.*merge"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("revisions", [["abc"], ["abc", "def"], ["def", "abc", "x"]])
def test_a_models_folder_in_a_hub_cache_is_its_main_snapshot(revisions: list[str], tmp_path: Path) -> None:
    outer = tmp_path / "models--org--name"
    for revision in revisions:
        copy(outer / "snapshots" / revision)
    (outer / "refs").mkdir()
    if len(revisions) > 1:
        with pytest.raises(CheckpointError, match=r"2 snapshots|3 snapshots"):
            open_checkpoint(outer)
        (outer / "refs" / "main").write_text("abc\n")
    assert open_checkpoint(outer).path == outer / "snapshots" / "abc"


def test_weights_without_a_configuration_say_what_is_missing(tmp_path: Path) -> None:
    shutil.copy(demo_folder() / "model.safetensors", tmp_path)
    with pytest.raises(UnsupportedError, match=r"no config\.json"):
        verbs.quantize(tmp_path, tmp_path.parent / "out.gguf", PLAIN)
    with pytest.raises(UnsupportedError, match=r"no config\.json"):
        verbs.measure(tmp_path, demo_folder(), MeasureOptions())
    tensors = QuantizeOptions(bits=4, container="compressed-tensors", calibrate=False, measure=None)
    assert verbs.quantize(tmp_path, tmp_path.parent / f"{tmp_path.name}-out", tensors).output.is_dir()


@pytest.mark.parametrize("name", [b"na\xffme", b"\xfe\xfe", b"caf\xe9.v2"])
@pytest.mark.parametrize("container", ["gguf", "compressed-tensors"])
def test_a_folder_whose_name_is_no_utf8_is_read_and_written(name: bytes, container: str, tmp_path: Path) -> None:
    folder = copy(tmp_path / os.fsdecode(name))
    options = QuantizeOptions(bits=4, container=container, calibrate=False, measure=None)
    output = tmp_path / os.fsdecode(b"out-" + name)
    verbs.verify(verbs.quantize(folder, output, options).output)


def test_an_adapter_beside_a_configuration_is_still_one_and_a_model_beside_an_adapter_is_not(tmp_path: Path) -> None:
    folder = copy(tmp_path / "model")
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "org/base"}))
    shutil.copy(folder / "model.safetensors", folder / "adapter_model.safetensors")
    assert open_checkpoint(folder).tensors.keys() == open_checkpoint(demo_folder()).tensors.keys()
    with pytest.raises(UnsupportedError, match=r"adapter .* of org/base.*merge"):
        open_checkpoint(folder / "adapter_model.safetensors")
    (folder / "model.safetensors").unlink()
    with pytest.raises(UnsupportedError, match=r"adapter .* of org/base.*merge"):
        open_checkpoint(folder)


@pytest.mark.parametrize("given", ["", "snapshots"])
def test_a_copied_hub_folder_needs_no_references(given: str, tmp_path: Path) -> None:
    snapshot = copy(tmp_path / "models--org--name" / "snapshots" / "abc")
    assert open_checkpoint(tmp_path / "models--org--name" / given).path == snapshot


@pytest.mark.parametrize("count", [1, 2])
def test_a_whole_hub_cache_names_its_models(count: int, tmp_path: Path) -> None:
    for number in range(count):
        copy(tmp_path / f"models--org--{number}" / "snapshots" / "abc")
    with pytest.raises(CheckpointError, match=rf"hub cache.*\({count} found\).*models--org--0"):
        open_checkpoint(tmp_path)
