"""A file that is written to while it is read gives no mixture of old and new; one that only loses its name is read."""

import os
import shutil
from pathlib import Path

import pytest

import tiny_models
from halfpint.checkpoints import open_checkpoint
from halfpint.errors import CheckpointError
from halfpint.pipeline import verbs
from halfpint.pipeline.options import MeasureOptions, QuantizeOptions


def in_place(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(-64, os.SEEK_END)
        file.write(b"\x3c" * 64)


def in_place_with_the_times_put_back(path: Path) -> None:
    status = path.stat()
    in_place(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def longer(path: Path) -> None:
    with path.open("ab") as file:
        file.write(bytes(64))


def other_of_that_name(path: Path) -> None:
    copy = path.with_suffix(".new")
    shutil.copy(path, copy)
    in_place(copy)
    copy.replace(path)


CHANGES = {"in place": in_place, "times put back": in_place_with_the_times_put_back, "longer": longer}
HARMLESS = {
    "deleted": Path.unlink,
    "renamed over": other_of_that_name,
    "linked": lambda path: os.link(path, f"{path}.2"),
}
KINDS = ("huggingface", "gguf", "compressed-tensors")


@pytest.fixture
def model(tmp_path, request):
    tiny_models.save_tiny("llama", tmp_path / "original")
    if request.param == "huggingface":
        return tmp_path / "original"
    options = QuantizeOptions(bits=8, container=request.param, calibrate=False, measure=None)
    return verbs.quantize(tmp_path / "original", tmp_path / "model", options).output


@pytest.mark.parametrize("model", KINDS, indirect=True)
@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_is_written_to_is_refused(model, change):
    checkpoint = open_checkpoint(model)
    name = next(iter(checkpoint.tensors))
    checkpoint.read(name)
    checkpoint.check_unchanged()
    CHANGES[change](checkpoint.files[0])
    with pytest.raises(CheckpointError, match="changed while it was being read"):
        checkpoint.read(name)
    with pytest.raises(CheckpointError, match="changed while it was being read"):
        checkpoint.check_unchanged()


@pytest.mark.parametrize("model", KINDS, indirect=True)
@pytest.mark.parametrize("change", HARMLESS)
def test_a_file_that_only_loses_its_name_is_read_as_it_was(model, change):
    checkpoint = open_checkpoint(model)
    names = list(checkpoint.tensors)
    before = {name: checkpoint.read(name) for name in names}
    HARMLESS[change](checkpoint.files[0])
    assert all(repr(checkpoint.read(name)) == repr(before[name]) for name in names)


class Overwriting:
    """Changes the source when a stage has begun."""

    def __init__(self, path: Path, stage: str) -> None:
        self.path, self.stage, self.done = path, stage, False

    def __call__(self, stage: str, done: int, *_: object) -> None:
        if stage == self.stage and done > 0 and not self.done:
            self.done = True
            in_place_with_the_times_put_back(self.path)


@pytest.mark.parametrize("model", KINDS[:2], indirect=True)
@pytest.mark.parametrize("stage", ["quantize", "verify"])
def test_a_job_whose_source_changes_leaves_no_output(model, stage, tmp_path):
    file = model if model.is_file() else model / "model.safetensors"
    change = Overwriting(file, stage)
    options = QuantizeOptions(format="q8_0", calibrate=False, measure=None)
    with pytest.raises(CheckpointError, match="changed while it was being read"):
        verbs.quantize(model, tmp_path / "out.gguf", options, change)
    assert change.done
    assert not (tmp_path / "out.gguf").exists()


def test_a_comparison_whose_models_change_gives_no_figure(tmp_path):
    out = verbs.quantize("demo", tmp_path / "a.gguf", QuantizeOptions(bits=4, calibrate=False, measure=None)).output
    change = Overwriting(out, "measure")
    with pytest.raises(CheckpointError, match="changed while it was being read"):
        verbs.measure(out, "demo", MeasureOptions(tokens=400), change)
    assert change.done
