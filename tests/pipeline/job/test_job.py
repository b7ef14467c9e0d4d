"""The job: complete, exact about its size, repeatable, and harmless when it fails."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import halfpint
import tiny_models
from halfpint.checkpoints import CONTAINERS, open_checkpoint, read_float32
from halfpint.errors import HalfpintError, NonFiniteError, UnsupportedError, UsageError
from halfpint.formats.float8 import Float8
from halfpint.models import opening
from halfpint.pipeline import verbs
from halfpint.pipeline.job import quantization
from halfpint.pipeline.job.quantization import JobSettings
from halfpint.pipeline.options import CalibrationOptions, QuantizeOptions
from halfpint.planning.left_out import TIED
from halfpint.planning.planner import Wish, make_plan

JOBS = [
    ("gguf", {"bits": 8}),
    ("gguf", {"bits": 4}),
    ("gguf", {"bits": 2}),
    ("gguf", {"format": "q4_0"}),
    ("gguf", {"format": "q8_0", "rules": ("*down_proj*=q5_1", "*layers.0*q_proj*=f16")}),
    ("compressed-tensors", {"bits": 8}),
    ("compressed-tensors", {"bits": 4}),
    ("compressed-tensors", {"format": "fp8"}),
    ("compressed-tensors", {"format": "int4-g32", "rules": ("*mlp*=int8-g32",)}),
    ("gguf", {"bits": 4, "calibrate": True}),
]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny") / "llama"
    tiny_models.save_tiny("llama", folder, dtype="bfloat16", hidden_size=256, intermediate_size=512)
    return folder


def options(container="gguf", *, calibrate=False, **wish):
    text = CalibrationOptions(tokens=1024)
    return QuantizeOptions(container=container, calibrate=calibrate, calibration=text, measure=None, **wish)


def contents(path):
    """All bytes of an output, by file name."""
    files = [path] if path.is_file() else sorted(path.iterdir())
    return {file.name: file.read_bytes() for file in files}


def bound_of(planned):
    """Largest relative error that a solver and a format may make on normal weights; 0 for a copy."""
    if planned.format is None:
        return 0
    # Error feedback lets a weight be further off to keep the layer's output: 1.8 times as far at most was seen.
    factor = 2 if planned.solver == "feedback" else 1
    if isinstance(planned.format, Float8):
        return 0.04  # 3 bits of mantissa: off by 2**-4 of the value at most, and 2**-4 / sqrt(3) = 0.036 in the mean
    bounds = {2: 0.45, 3: 0.25, 4: 0.12, 5: 0.06, 6: 0.04, 7: 0.03, 8: 0.02, 16: 2**-8, 32: 0}
    return factor * bounds[planned.format.bits]


@pytest.mark.parametrize(("container", "wish"), JOBS, ids=str)
def test_every_tensor_is_accounted_for_and_the_plan_knows_the_size(tiny, tmp_path, container, wish):
    result = verbs.quantize(tiny, tmp_path / "out", options(container, **wish))
    source, written = open_checkpoint(tiny), open_checkpoint(result.output)
    planned = {tensor.planned.name for tensor in result.tensors}
    dropped = {name for name, _ in result.plan.dropped}
    assert planned | dropped == set(source.tensors)
    assert set(written.tensors) == planned
    weights = [result.output] if result.output.is_file() else list(result.output.glob("*.safetensors"))
    assert sum(file.stat().st_size for file in weights) == result.plan.nbytes == written.weight_bytes
    for tensor in result.tensors:
        original = read_float32(source, tensor.planned.name)
        decoded = read_float32(written, tensor.planned.name)
        error = np.linalg.norm(original - decoded) / np.linalg.norm(original)
        assert error == pytest.approx(tensor.relative_error, rel=1e-3, abs=1e-7), tensor.planned.name
        assert error <= bound_of(tensor.planned), tensor.planned.name


@pytest.mark.bits
@pytest.mark.parametrize(("container", "wish"), JOBS, ids=str)
def test_the_same_job_gives_the_same_bytes_on_one_thread_and_on_two(tiny, tmp_path, container, wish, threads):
    outputs = []
    for number, count in enumerate((1, 2, 2)):
        threads(count)
        folder = tmp_path / str(number)
        folder.mkdir()
        outputs.append(contents(verbs.quantize(tiny, folder / "out", options(container, **wish)).output))
    assert outputs[0] == outputs[1] == outputs[2]


def test_a_quantized_checkpoint_is_a_source_too(tiny, tmp_path):
    verbs.quantize(tiny, tmp_path / "first.gguf", options(bits=8))
    folder = verbs.quantize(tiny, tmp_path / "first", options("compressed-tensors", bits=8)).output
    for source in (tmp_path / "first.gguf", folder):
        target = tmp_path / f"{source.name}-again.gguf"
        assert verbs.quantize(source, target, options(bits=4)).plan.bits_per_weight < 7


def test_a_tied_head_is_stored_once(tiny, tmp_path):
    folder = tmp_path / "tied"
    shutil.copytree(tiny, folder)
    config = json.loads((folder / "config.json").read_text())
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].copy()
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    result = verbs.quantize(folder, tmp_path / "out.gguf", options(bits=4))
    assert result.plan.dropped == (("lm_head.weight", TIED),)
    assert "lm_head.weight" not in open_checkpoint(result.output).tensors


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("container", ["gguf", "compressed-tensors"])
def test_a_weight_that_is_no_number_is_named_and_nothing_is_left(tiny, tmp_path, container, bad):
    folder = tmp_path / "bad"
    shutil.copytree(tiny, folder)
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][300, 7] = bad
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(NonFiniteError, match=r"model\.layers\.1\.mlp\.up_proj\.weight.*\[300, 7\]"):
        verbs.quantize(folder, tmp_path / "out", options(container, bits=4))
    assert {item.name for item in tmp_path.iterdir()} == {"bad"}


def test_the_source_and_what_exists_are_never_written_over(tiny, tmp_path):
    before = contents(tiny)
    (tmp_path / "there").write_text("precious")
    for target in (tiny, tiny / "inside", tiny.parent, tmp_path / "there", tmp_path / "no" / "folder"):
        with pytest.raises(UsageError):
            verbs.quantize(tiny, target, options(bits=4))
    assert contents(tiny) == before
    assert (tmp_path / "there").read_text() == "precious"


@pytest.mark.parametrize(
    ("wish", "error", "says"),
    [
        ({"rules": ("*nothing*=q8_0",), "bits": 4}, UsageError, "matches no tensor"),
        ({"format": "q9_k"}, UnsupportedError, "no format"),
        ({"bits": 4, "format": "q4_k"}, UsageError, "not both"),
        ({}, UsageError, "say what you want"),
        ({"bits": 9}, UnsupportedError, "9 bits"),
        ({"format": "nf4"}, UnsupportedError, "nf4"),
        ({"rules": ("*norm*=q4_k",), "bits": 4}, UnsupportedError, "norm"),
        ({"bits": 4, "engine": "vllm"}, UnsupportedError, "vllm cannot load"),
    ],
    ids=str,
)
def test_a_wish_that_cannot_be_met_is_an_error_before_anything_is_written(tiny, tmp_path, wish, error, says):
    with pytest.raises(error, match=says):
        verbs.quantize(tiny, tmp_path / "out.gguf", options(**wish))
    assert not list(tmp_path.iterdir())


def test_a_killed_job_leaves_nothing_under_the_output_name_and_the_next_one_succeeds(tmp_path):
    """Kill at several moments; whatever is left is hidden, and does not disturb the next run."""
    model = opening.demo_folder()
    output = tmp_path / "out.gguf"
    command = [sys.executable, "-m", "halfpint", "quantize", str(model), str(output), "--bits", "4"]
    command += ["--no-calibrate", "--no-measure"]
    environment = os.environ | {"PYTHONPATH": str(Path(halfpint.__file__).parents[1])}
    killed = 0
    for attempt in range(12):
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        # Wait for the partial to appear rather than for a time: then kill in the middle of writing.
        while process.poll() is None and not any(item.name.startswith(".out") for item in tmp_path.iterdir()):
            time.sleep(0.001)
        for _ in range(attempt * 20):
            if process.poll() is not None:
                break
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
        if output.exists():  # it had finished: then it must be whole
            verbs.verify(output)
            output.unlink()
    assert killed > 0
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    verbs.verify(output)
    assert [item.name for item in tmp_path.iterdir()] == ["out.gguf"]


@pytest.mark.parametrize("container", ["gguf", "compressed-tensors"])
def test_a_full_disk_is_an_error_and_leaves_nothing(tiny, tmp_path, container):
    """A limit on the size of files stands in for a full disk: reserving the room fails half-way."""
    script = (
        "import resource, sys\n"
        "from halfpint.pipeline import verbs\n"
        "from halfpint.pipeline.options import CalibrationOptions, QuantizeOptions\n"
        "from halfpint.errors import HalfpintError\n"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "options = QuantizeOptions(bits=8, container=sys.argv[3], calibrate=False, measure=None)\n"
        "try:\n"
        "    verbs.quantize(sys.argv[1], sys.argv[2], options)\n"
        "except HalfpintError as error:\n"
        "    sys.exit(f'{error.exit_code}')\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(halfpint.__file__).parents[1])}
    command = [sys.executable, "-c", script, str(tiny), str(tmp_path / "out"), container]
    outcome = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert outcome.stderr.strip() == "4", outcome.stderr
    assert not list(tmp_path.iterdir())


def test_errors_share_one_base():
    assert issubclass(NonFiniteError, HalfpintError)


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_a_job_that_ends_while_its_output_is_looked_at_goes_on_there(error, tmp_path):
    source, output = open_checkpoint(opening.demo_folder()), tmp_path / "out.gguf"
    plan = make_plan(source, CONTAINERS["gguf"], Wish(bits=4))
    seen = []

    def stop(path):
        seen.append(path)
        raise error

    with pytest.raises(error):
        quantization.quantize(source, output, plan, settings=JobSettings(examine=stop))
    assert not output.exists()
    written = quantization.quantize(source, output, plan, settings=JobSettings(examine=seen.append))
    assert written.continued == len(plan.tensors)
    assert seen[0] == seen[1] != output
    assert output.exists()


def test_an_error_of_the_look_at_the_output_keeps_the_output(tmp_path):
    source, output = open_checkpoint(opening.demo_folder()), tmp_path / "out.gguf"
    plan = make_plan(source, CONTAINERS["gguf"], Wish(bits=4))

    def fail(_path):
        raise UsageError("vocabularies differ")

    with pytest.raises(UsageError, match="vocabularies"):
        quantization.quantize(source, output, plan, settings=JobSettings(examine=fail))
    assert output.exists()
