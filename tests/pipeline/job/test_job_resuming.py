"""A job that ends early is not lost: the same job goes on from where it was, to the same bytes."""

import json
import os
import shutil
import signal

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import tiny_models
from halfpint.checkpoints.staging import Staging
from halfpint.errors import NonFiniteError, UsageError
from halfpint.pipeline import verbs
from halfpint.pipeline.job.journal import JOURNAL_NAME
from halfpint.pipeline.job.resuming import CONTINUING
from halfpint.pipeline.options import QuantizeOptions
from job_processes import At, carry_out, interrupt, options, runner

DATA_FREE = [
    {"container": "gguf", "bits": 4},
    {"container": "compressed-tensors", "bits": 4},
]
CALIBRATED = [
    {"container": "gguf", "bits": 4, "calibrate": True, "tokens": 400},
    {"container": "compressed-tensors", "bits": 4, "calibrate": True, "tokens": 400},
]
JOBS = [*DATA_FREE, *CALIBRATED]
MOMENTS = 20


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny") / "llama"
    tiny_models.save_tiny("llama", folder, dtype="bfloat16")
    return folder


@pytest.fixture(scope="module")
def run():
    with runner() as function:
        yield function


@pytest.fixture(scope="module")
def whole(tiny, tmp_path_factory):
    """What each job writes when nothing goes wrong, and at how many steps something could."""
    made = {}
    for wish in JOBS:
        at = At()
        output = tmp_path_factory.mktemp("whole") / "out"
        carry_out(tiny, output, wish, at)
        made[json.dumps(wish)] = contents(output), at.calls
    return made


def contents(path):
    """All bytes of an output, by file name."""
    files = [path] if path.is_file() else sorted(path.iterdir())
    return {file.name: file.read_bytes() for file in files}


def hidden(output):
    return output.parent / f".{output.name}.halfpint-job"


def begin(model, output, wish, action=interrupt, step=12):
    """A job that ends in the middle, in this process."""
    with pytest.raises(KeyboardInterrupt) as caught:
        verbs.quantize(model, output, options(**wish), At(step, action))
    return caught.value


def lines(output):
    return [json.loads(line)["record"] for line in (hidden(output) / JOURNAL_NAME).read_text().splitlines()]


@pytest.mark.parametrize("wish", JOBS, ids=str)
def test_a_job_killed_at_any_moment_goes_on_to_the_same_bytes(tiny, whole, run, tmp_path, wish):
    expected, steps = whole[json.dumps(wish)]
    output = tmp_path / "out"
    for step in sorted({steps * moment // MOMENTS for moment in range(MOMENTS)}):
        assert run(tiny, output, wish, step=step) == -signal.SIGKILL
        assert not output.exists()
        assert run(tiny, output, wish, threads=1 + step % 2) == 0
        assert contents(output) == expected, f"killed at step {step} of {steps}"
        assert [item.name for item in tmp_path.iterdir()] == ["out"]
        shutil.rmtree(output) if output.is_dir() else output.unlink()


@pytest.mark.parametrize("wish", JOBS, ids=str)
def test_a_job_killed_again_and_again_comes_to_its_end(tiny, whole, run, tmp_path, wish):
    """Each life gets a little further, because what the ones before it finished is not done again."""
    expected, steps = whole[json.dumps(wish)]
    output = tmp_path / "out"
    lives, finished = 0, 0
    while (code := run(tiny, output, wish, step=steps * 2 // 3 + lives)) != 0:
        assert code == -signal.SIGKILL
        assert len(lines(output)) - 1 >= finished
        finished = len(lines(output)) - 1
        lives += 1
        assert lives < 100
    assert lives > 0
    assert contents(output) == expected


@pytest.mark.parametrize("wish", JOBS, ids=str)
def test_a_full_disk_leaves_the_job_to_go_on_with(tiny, whole, run, tmp_path, wish):
    expected, steps = whole[json.dumps(wish)]
    output = tmp_path / "out"
    for moment in range(5):
        code = run(tiny, output, wish, step=moment * steps // 10, action="fill the disk")
        assert code == 4
        assert not output.exists()
        assert hidden(output).exists() == (moment > 0)
    assert run(tiny, output, wish) == 0
    assert contents(output) == expected


@pytest.mark.parametrize("wish", CALIBRATED, ids=str)
@pytest.mark.parametrize("lost", ["nothing", "the state", "half of the state", "a weight before it"])
def test_a_calibrated_job_goes_on_from_its_state_or_from_the_weights_alone(tiny, whole, tmp_path, wish, lost):
    output = tmp_path / "out"
    step = 18  # in the second of two blocks
    with pytest.raises(KeyboardInterrupt):
        carry_out(tiny, output, wish, At(step, interrupt))
    state = hidden(output) / "streams.state"
    if lost == "the state":
        state.unlink()
    if lost == "half of the state":
        state.write_bytes(state.read_bytes()[: state.stat().st_size // 2])
    if lost == "a weight before it":
        path, lost_name = hidden(output) / JOURNAL_NAME, b'{"name":"model.layers.0.mlp.up_proj.weight"'
        kept = [line for line in path.read_bytes().splitlines(keepends=True) if lost_name not in line]
        path.write_bytes(b"".join(kept))
    at = At()
    result = carry_out(tiny, output, wish, at)
    assert result.continued == step - (lost == "a weight before it")
    assert at.stages.count("quantize") == 21 - result.continued + 1
    assert contents(output) == whole[json.dumps(wish)][0]
    assert result.calibration.tokens_by_source


def test_other_text_is_refused(tiny, tmp_path):
    output = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        carry_out(tiny, output, CALIBRATED[0], At(15, interrupt))
    with pytest.raises(UsageError, match=r"settings calibration tokens was .* and is "):
        carry_out(tiny, output, CALIBRATED[0] | {"tokens": 1000}, At())


def test_an_interrupted_job_says_how_to_go_on_and_then_that_it_does(tiny, tmp_path):
    output = tmp_path / "out"
    error = begin(tiny, output, DATA_FREE[0])
    kept = len(lines(output)) - 1
    assert 0 < kept < 21
    assert error.__notes__ == [
        f"{kept} of 21 tensors are kept in {hidden(output)}; the same command goes on from there, "
        "with --fresh it starts again"
    ]
    at = At()
    result = verbs.quantize(tiny, output, options(**DATA_FREE[0]), at)
    assert at.details[at.stages.index(CONTINUING)] == f"{kept} of 21 tensors were done"
    assert at.stages.count("quantize") == 21 - kept + 1
    assert len(result.tensors) == 21


def test_a_job_that_has_finished_nothing_leaves_nothing(tiny, tmp_path):
    begin(tiny, tmp_path / "out", DATA_FREE[0], step=0)
    assert not list(tmp_path.iterdir())


def test_what_no_second_run_could_mend_leaves_nothing(tiny, tmp_path):
    folder = tmp_path / "bad"
    shutil.copytree(tiny, folder)
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][3, 7] = np.nan
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(NonFiniteError):
        verbs.quantize(folder, tmp_path / "out", options(**DATA_FREE[0]))
    assert [item.name for item in tmp_path.iterdir()] == ["bad"]


def test_fresh_starts_again(tiny, whole, tmp_path):
    output = tmp_path / "out"
    begin(tiny, output, DATA_FREE[0])
    at = At()
    verbs.quantize(tiny, output, QuantizeOptions(bits=4, calibrate=False, measure=None, fresh=True), at)
    assert CONTINUING not in at.stages
    assert contents(output) == whole[json.dumps(DATA_FREE[0])][0]


@pytest.mark.parametrize(
    ("wish", "says"),
    [
        ({"container": "gguf", "bits": 5}, r"plan model\..* was iq4_xs by nearest.* and is q5_k"),
        ({"container": "compressed-tensors", "bits": 4}, "output container was gguf and is compressed-tensors"),
        ({"container": "gguf", "bits": 4, "calibrate": True}, "by nearest.* and is .* by feedback"),
    ],
    ids=str,
)
def test_another_plan_is_refused_and_the_old_job_stays(tiny, whole, tmp_path, wish, says):
    output = tmp_path / "out"
    begin(tiny, output, DATA_FREE[0])
    before = contents(hidden(output))
    with pytest.raises(UsageError, match=says) as caught:
        verbs.quantize(tiny, output, options(**wish))
    assert "--fresh" in str(caught.value)
    assert contents(hidden(output)) == before
    verbs.quantize(tiny, output, options(**DATA_FREE[0]))
    assert contents(output) == whole[json.dumps(DATA_FREE[0])][0]


def test_another_version_is_refused(tiny, tmp_path, monkeypatch):
    output = tmp_path / "out"
    begin(tiny, output, DATA_FREE[0])
    monkeypatch.setattr("halfpint.pipeline.job.fingerprint.__version__", "9.9.9")
    with pytest.raises(UsageError, match=r"halfpint version was .* and is 9\.9\.9.*--fresh"):
        verbs.quantize(tiny, output, options(**DATA_FREE[0]))


def change_a_weight(folder):
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    status = path.stat()
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))


def change_a_weight_between_the_samples(folder):
    """Nothing but the contents themselves tells this one."""
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[len(data) * 33 // 64] ^= 1
    path.write_bytes(data)


def change_the_header(folder):
    path = folder / "model.safetensors"
    save_file(load_file(path), path, {"made": "anew"})


def change_the_configuration(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"rope_theta": 20000.0, "rope_parameters": None}))


def change_the_tokenizer(folder):
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"model_max_length": 128}))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (change_a_weight, "has changed"),
        (change_a_weight_between_the_samples, r"model\..* has changed in the source"),
        (change_the_header, "files model.safetensors"),
        (change_the_configuration, "source configuration has changed"),
        (change_the_tokenizer, "side files tokenizer_config.json has changed"),
    ],
)
@pytest.mark.parametrize("wish", DATA_FREE, ids=str)
def test_another_source_is_refused(tiny, tmp_path, wish, change, says):
    folder = tmp_path / "model"
    tiny_models.save_tiny("llama", folder, dtype="bfloat16", hidden_size=256, intermediate_size=768)
    output = tmp_path / "out"
    # At the last step of writing, so that every tensor has been read.
    begin(folder, output, wish, step=21)
    change(folder)
    with pytest.raises(UsageError, match=rf"{says}.*--fresh"):
        verbs.quantize(folder, output, options(**wish))
    assert len(lines(output)) == 22


@pytest.mark.parametrize("step", [3, 12])
def test_a_calibrated_job_refuses_a_source_that_changed_where_it_had_not_come_to(tmp_path, step):
    """Text has passed through weights that are written later: what was written may depend on them."""
    folder, output = tmp_path / "model", tmp_path / "out"
    tiny_models.save_tiny("llama", folder, dtype="bfloat16", hidden_size=256, intermediate_size=768)
    with pytest.raises(KeyboardInterrupt):
        carry_out(folder, output, CALIBRATED[0], At(step, interrupt))
    change_a_weight_between_the_samples(folder)
    with pytest.raises(UsageError, match=r"files model.safetensors content has changed.*--fresh"):
        carry_out(folder, output, CALIBRATED[0], At())
    assert len(lines(output)) == step + 1


@pytest.mark.parametrize("wish", [DATA_FREE[0], CALIBRATED[0]], ids=str)
def test_a_source_that_was_only_copied_is_the_same(tiny, whole, tmp_path, wish):
    output = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        carry_out(tiny, output, wish, At(12, interrupt))
    copy = tmp_path / "elsewhere" / tiny.name
    shutil.copytree(tiny, copy, copy_function=shutil.copyfile)
    at = At()
    carry_out(copy, output, wish, at)
    assert {"compare the source", CONTINUING} <= set(at.stages)
    assert contents(output) == whole[json.dumps(wish)][0]


@pytest.mark.parametrize("wish", DATA_FREE, ids=str)
def test_bytes_that_were_lost_are_written_again(tiny, whole, tmp_path, wish):
    """A power cut may lose what the journal tells of: then a hole stands there."""
    output = tmp_path / "out"
    begin(tiny, output, wish)
    kept = len(lines(output)) - 1
    path = hidden(output) / "output"
    path = path if path.is_file() else path / "model.safetensors"
    data = bytearray(path.read_bytes())
    half = len(data) // 2
    path.write_bytes(data[:half] + bytes(len(data) - half))
    at = At()
    verbs.quantize(tiny, output, options(**wish), at)
    assert at.stages.count("quantize") - 1 > 21 - kept
    assert contents(output) == whole[json.dumps(wish)][0]


def test_two_processes_never_do_one_job(tiny, run, tmp_path):
    output = tmp_path / "out"
    held = Staging(output)
    assert run(tiny, output, DATA_FREE[0]) == UsageError.exit_code
    held.abandon()
    assert run(tiny, output, DATA_FREE[0]) == 0


def test_an_output_that_appears_meanwhile_loses_no_work(tiny, whole, tmp_path):
    output = tmp_path / "out"
    with pytest.raises(UsageError, match="exists already") as caught:
        verbs.quantize(tiny, output, options(**DATA_FREE[0]), At(25, lambda: output.write_text("theirs")))
    assert "21 of 21 tensors are kept" in caught.value.__notes__[0]
    assert output.read_text() == "theirs"
    output.unlink()
    verbs.quantize(tiny, output, options(**DATA_FREE[0]))
    assert contents(output) == whole[json.dumps(DATA_FREE[0])][0]
