"""The forecast of a job's memory is not below what it takes, and not far above; a limit is kept, or refused at once."""

import json
import subprocess
import sys

import pytest

import shapes
from halfpint.checkpoints import open_checkpoint
from halfpint.errors import RoomError
from halfpint.models.opening import demo_folder
from halfpint.pipeline.choosing.memory_forecast import limits_within, peak_bytes
from halfpint.pipeline.choosing.plan_selection import decide
from halfpint.pipeline.results import MemoryLimits
from job_processes import options

WIDE = shapes.Shape(hidden=768, intermediate=2048, layers=1, heads=12, kv_heads=12, vocabulary=32000, positions=512)
FAR = 1.6

# The peak is the kernel's count for this program alone (VmHWM): `ru_maxrss` would start at what the parent held.
JOB = """
import json, sys
from pathlib import Path
from halfpint.pipeline import verbs
from job_processes import options
wish = json.loads(sys.argv[3])
most = wish.pop("most", 0)
from dataclasses import replace
result = verbs.quantize(sys.argv[1], sys.argv[2], replace(options(**wish), max_memory_bytes=most))
peak = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024
print(json.dumps([peak, result.planned.peak_memory_bytes]))
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wide") / "model"
    folder.mkdir()
    shapes.write_config(WIDE, folder)
    shapes.write_tokenizer(WIDE, folder)
    shapes.write_shards(WIDE, folder, seed=0)
    return {"wide": folder, "demo": demo_folder()}


def measured(model, output, wish):
    """Peak and forecast of a job in a process of its own."""
    environment = {"PYTHONPATH": ":".join(sys.path), "PATH": ""}
    command = [sys.executable, "-c", JOB, str(model), str(output), json.dumps(wish)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    "wish",
    [
        {"container": "gguf", "bits": 4},
        {"container": "compressed-tensors", "bits": 4},
        {"container": "gguf", "bits": 4, "calibrate": True, "tokens": 1024},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["demo", "wide"])
def test_a_job_takes_no_more_than_its_forecast_and_not_much_less(models, tmp_path, name, wish):
    peak, forecast = measured(models[name], tmp_path / "out", wish)
    assert peak <= forecast <= FAR * peak


def test_a_job_stays_below_its_limit_by_taking_smaller_pieces(models, tmp_path):
    wish = {"container": "gguf", "bits": 4}
    free, _ = measured(models["wide"], tmp_path / "free", wish)
    limit = free - 40_000_000
    peak, forecast = measured(models["wide"], tmp_path / "bounded", {**wish, "most": limit})
    assert peak <= forecast <= limit
    assert (tmp_path / "free").read_bytes() == (tmp_path / "bounded").read_bytes()


@pytest.mark.parametrize("calibrate", [False, True])
def test_a_limit_below_what_is_needed_is_refused_with_what_is(models, calibrate):
    source = open_checkpoint(models["wide"])
    plan = decide(source, options("gguf", bits=4, calibrate=calibrate, tokens=512)).plan
    least = peak_bytes(source, plan, 512, MemoryLimits(1, 0))
    assert limits_within(source, plan, 512, least) == MemoryLimits(
        limits_within(source, plan, 512, least).slice_weights, 0
    )
    with pytest.raises(RoomError, match=f"{least:,} bytes"):
        limits_within(source, plan, 512, least - 1)
    assert limits_within(source, plan, 512, 0) == MemoryLimits()
    source.close()


@pytest.mark.parametrize("calibrate", [False, True])
def test_less_memory_never_means_larger_pieces(models, calibrate):
    source = open_checkpoint(models["wide"])
    plan = decide(source, options("gguf", bits=4, calibrate=calibrate, tokens=8192)).plan
    most = peak_bytes(source, plan, 8192, MemoryLimits())
    least = peak_bytes(source, plan, 8192, MemoryLimits(1, 0))
    before = MemoryLimits()
    for step in range(11):
        allowed = most - (most - least) * step // 10
        limits = limits_within(source, plan, 8192, allowed)
        assert peak_bytes(source, plan, 8192, limits) <= allowed
        assert limits.slice_weights <= before.slice_weights
        before = limits
    source.close()
