"""The fingerprint of a job is the same for the same job, and tells in words what differs."""

import json
import os
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

import tiny_models
from halfpint.checkpoints import CONTAINERS, open_checkpoint
from halfpint.pipeline.job.fingerprint import differences, fingerprint, summary, touched
from halfpint.planning.planner import Wish, make_plan


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    tiny_models.save_tiny("llama", folder, dtype="bfloat16")
    return folder


def taken(path, bits=4, settings=None, whole=False):
    source = open_checkpoint(path)
    plan = make_plan(source, CONTAINERS["gguf"], Wish(bits=bits))
    try:
        return fingerprint(source, plan, settings or {}, whole=whole)
    finally:
        source.close()


def test_the_same_job_has_the_same_fingerprint_wherever_its_source_lies(model, tmp_path):
    shutil.copytree(model, tmp_path / "elsewhere" / "model")
    one, other = taken(model), taken(tmp_path / "elsewhere" / "model")
    assert one == json.loads(json.dumps(one))
    assert differences(one, other) == []
    assert not touched(one, taken(model))
    assert touched(one, other)  # its contents must be compared, for times can be put back


def test_a_touched_file_is_no_difference_but_is_noticed(model):
    before = taken(model)
    os.utime(model / "model.safetensors", ns=(0, 1))
    assert differences(before, taken(model)) == []
    assert touched(before, taken(model))


def test_with_every_byte_counted_any_change_is_a_difference(model, tmp_path):
    before, path = taken(model, whole=True), model / "model.safetensors"
    data = path.read_bytes()
    for place in np.random.default_rng(0).integers(len(data) // 2, len(data), 20):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        assert differences(before, taken(model, whole=True)) == ["files model.safetensors content has changed"]
    path.write_bytes(data)
    assert differences(before, taken(model, whole=True)) == []


def test_settings_and_plan_are_told_in_words(model):
    before = taken(model, settings={"calibration": {"tokens": 8192, "gone": 1}})
    said = differences(before, taken(model, bits=5, settings={"calibration": {"tokens": 4096, "new": 1}}))
    assert said[-3:] == [
        "settings calibration tokens was 8192 and is 4096",
        "settings calibration gone is gone",
        "settings calibration new is new",
    ]
    assert all(line.startswith("plan model.") for line in said[:-3])
    assert summary(said).endswith(f", and {len(said) - 3} more")
    assert summary(said[-2:]) == "settings calibration gone is gone; settings calibration new is new"


@pytest.mark.parametrize("place", [0, 0.3, 1])
def test_a_byte_at_the_beginning_in_a_sample_or_at_the_end_shows(tmp_path, place):
    path = tmp_path / "model.gguf"
    source = tmp_path / "model"
    tiny_models.save_tiny("llama", source, dtype="bfloat16", hidden_size=256, intermediate_size=1024)
    shutil.copy(source / "model.safetensors", tmp_path / "one.safetensors")
    path = tmp_path / "one.safetensors"
    before = of_file(path)
    data = bytearray(path.read_bytes())
    position = min(int(place * len(data)), len(data) - 1)
    last = len(data) - (1 << 14)
    position = last * 20 // 32 + 5 if place == 0.3 else position
    data[position] ^= 1
    path.write_bytes(data)
    assert of_file(path)["files"] != before["files"]


def of_file(path):
    """Fingerprint of a source whose header need not be sound any more."""

    source = SimpleNamespace(files=(path,), config={}, path=path)
    made = fingerprint(source, SimpleNamespace(container="gguf", tensors=()), {})
    for entry in made["files"].values():
        del entry["modified_ns"], entry["changed_ns"]
    return made
