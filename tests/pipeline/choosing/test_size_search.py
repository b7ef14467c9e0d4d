"""Jobs of several files: what is kept is the best of them, and nothing else stays."""

import json
from contextlib import closing

import pytest

import tiny_models
from halfpint import open_model
from halfpint.errors import RoomError, UnsupportedError, UsageError
from halfpint.pipeline import verbs
from halfpint.pipeline.choosing.plan_selection import decide
from halfpint.pipeline.choosing.size_search import MOST_TRIALS
from halfpint.pipeline.options import Budget, CalibrationOptions, Gate, MeasureOptions, QuantizeOptions
from halfpint.report import json as as_json

MEASURE = MeasureOptions(tokens=600)
# Fewer tokens than columns: poor statistics, and fast.
CALIBRATION = CalibrationOptions(tokens=192)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny") / "llama"
    sizes = {"hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 1}
    tiny_models.save_tiny("llama", folder, dtype="bfloat16", **sizes)
    return folder


def quantize(tiny, output, **more):
    return verbs.quantize(tiny, output, QuantizeOptions(**({"measure": MEASURE, "calibration": CALIBRATION} | more)))


@pytest.mark.parametrize(("container", "bits"), [("gguf", 6.0), ("compressed-tensors", 9.0)])
def test_a_budget_is_kept_and_the_better_file_too(tiny, tmp_path, container, bits):
    output = tmp_path / ("out.gguf" if container == "gguf" else "out")
    result = quantize(tiny, output, container=container, budget=Budget(bits_per_weight=bits))
    assert list(tmp_path.iterdir()) == [output]
    limit = int(bits * result.plan.parameters / 8)
    assert result.measurement.nbytes == result.plan.nbytes <= limit
    assert result.baseline is not None
    assert result.baseline.nbytes <= limit
    if result.baseline.kept:
        assert result.measurement.quality == result.baseline.quality
    else:
        assert result.measurement.quality.kl_mean <= result.baseline.quality.kl_mean
        ratio = result.measurement.quality.kl_mean / result.planned.kl_mean
        assert result.additivity == pytest.approx(ratio)
    again = verbs.measure(output, tiny, MEASURE)
    assert again.quality == result.measurement.quality
    told = json.loads(as_json.dumps(as_json.quantized(result)))
    assert told["baseline"]["bytes"] == result.baseline.nbytes
    assert told["forecast"]["kl_mean"] > 0


def test_without_a_comparison_there_is_one_file_and_no_baseline(tiny, tmp_path):
    result = quantize(tiny, tmp_path / "out.gguf", budget=Budget(bits_per_weight=5), measure=None)
    assert (result.baseline, result.additivity, result.verdict) == (None, None, "UNMEASURED")
    assert result.planned.kl_mean > 0


def test_nothing_is_measured_beforehand_without_calibration(tiny, tmp_path):
    result = quantize(tiny, tmp_path / "out.gguf", budget=Budget(bits_per_weight=5), calibrate=False)
    assert result.planned.kl_mean is None
    assert result.baseline is not None
    assert {tensor.solver for tensor in result.plan.tensors} <= {"nearest", "copy"}


@pytest.mark.parametrize("asked", [{"max_kl": 0.2}, {"keep": 0.8}])
def test_the_smallest_that_passes_is_kept(tiny, tmp_path, asked):
    output = tmp_path / "out.gguf"
    result = quantize(tiny, output, gate=Gate(**asked))
    assert list(tmp_path.iterdir()) == [output]
    assert result.verdict == "PASS"
    assert 1 < len(result.trials) <= MOST_TRIALS
    passed = [trial.nbytes for trial in result.trials if trial.passed]
    assert result.plan.nbytes == min(passed) == output.stat().st_size
    assert len({trial.nbytes for trial in result.trials}) == len(result.trials)
    # Something a little smaller was tried and failed, or there is nothing smaller.
    failed = [trial.nbytes for trial in result.trials if not trial.passed]
    assert max(failed) > 0.9 * min(passed)


def test_a_gate_that_everything_passes_gives_the_smallest_mixture(tiny, tmp_path):
    result = quantize(tiny, tmp_path / "out.gguf", gate=Gate(max_kl=1e6))
    with pytest.raises(RoomError, match=f"makes {result.plan.nbytes:,} bytes"):
        verbs.plan(tiny, QuantizeOptions(budget=Budget(size_bytes=1), calibrate=False))


def test_no_search_goes_below_the_smallest_mixture(tmp_path):
    """Rows of 64 get other formats, whose headers are not of one length."""
    folder = tmp_path / "narrow"
    sizes = {"hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 3}
    tiny_models.save_tiny("llama", folder, dtype="float32", **sizes)
    result = quantize(folder, tmp_path / "out.gguf", gate=Gate(max_kl=100.0))
    assert result.verdict == "PASS"
    with pytest.raises(RoomError, match=f"smallest mixture of formats makes {result.plan.nbytes:,} bytes"):
        quantize(folder, tmp_path / "less.gguf", budget=Budget(size_bytes=result.plan.nbytes - 1))


def test_a_gate_that_only_the_original_passes_gives_it(tiny, tmp_path):
    result = quantize(tiny, tmp_path / "out.gguf", gate=Gate(max_kl=0.0))
    assert result.verdict == "PASS"
    assert result.measurement.quality.kl_mean == 0
    assert {tensor.format.name for tensor in result.plan.tensors} <= {"bf16", "f32"}


def test_a_search_wants_trials_and_a_plan_has_none(tiny, tmp_path):
    with pytest.raises(UsageError, match="is found by making some"):
        verbs.plan(tiny, QuantizeOptions(gate=Gate(keep=0.9)))
    (tmp_path / "out.gguf").write_text("mine", encoding="utf-8")
    with pytest.raises(UsageError, match="exists"):
        quantize(tiny, tmp_path / "out.gguf", gate=Gate(keep=0.9))


def test_a_budget_needs_a_tokenizer_or_no_calibrate(tiny, tmp_path):
    tiny_models.save_tiny("llama", tmp_path / "mute", hidden_size=256, intermediate_size=512)
    (tmp_path / "mute" / "tokenizer.json").unlink()
    asked = Budget(bits_per_weight=6)
    with pytest.raises(UnsupportedError, match="--no-calibrate"):
        verbs.plan(tmp_path / "mute", QuantizeOptions(budget=asked))
    planned = verbs.plan(tmp_path / "mute", QuantizeOptions(budget=asked, calibrate=False))
    assert planned.plan.bits_per_weight <= 6


def test_a_budget_below_the_smallest_mixture_is_refused_before_anything_is_measured():
    told = []
    with closing(open_model("demo")) as checkpoint, pytest.raises(RoomError, match="the smallest mixture"):
        decide(checkpoint, QuantizeOptions(budget=Budget(size_bytes=1000)), lambda *stage: told.append(stage))
    assert not told
