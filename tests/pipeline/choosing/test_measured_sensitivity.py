"""What rounding a tensor does to the answers, measured as anybody would: with the whole models."""

import math

import numpy as np
import pytest

import tiny_models
from halfpint.checkpoints import CONTAINERS, open_checkpoint
from halfpint.engine import Decoder
from halfpint.errors import UnsupportedError
from halfpint.measuring.metrics import log_softmax
from halfpint.pipeline.choosing import measured_sensitivity as sensing
from halfpint.pipeline.job import quantization
from halfpint.pipeline.looking.measurement import calibration_windows
from halfpint.pipeline.options import CalibrationOptions
from halfpint.planning.candidates import candidates
from halfpint.planning.planner import Wish, make_plan
from halfpint.plans import Rule

TEXT = CalibrationOptions(tokens=600)
LADDER = [("q2_k", "q3_k"), ("q3_k", "q4_k"), ("q4_k", "q6_k"), ("q4_0", "q5_0"), ("q5_0", "q8_0")]
SIZES = {"hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 2}
SHAPES = {
    "tied": ("llama", SIZES | {"tie_word_embeddings": True}),
    "untied": ("llama", SIZES | {"tie_word_embeddings": False}),
    "odd": ("qwen3", {"num_hidden_layers": 2, "hidden_size": 96, "intermediate_size": 160}),
    "experts": ("mixtral", {"num_hidden_layers": 2}),
}


@pytest.fixture(scope="module", params=SHAPES)
def model(request, tmp_path_factory):
    family, sizes = SHAPES[request.param]
    folder = tmp_path_factory.mktemp("models") / request.param
    tiny_models.save_tiny(family, folder, dtype="bfloat16", **sizes)
    return open_checkpoint(folder)


@pytest.fixture(scope="module")
def found(model):
    """Everything measured, once for each model."""
    return sensing.sense(model, groups_of(model), TEXT)


def groups_of(model):
    return candidates(model, CONTAINERS["gguf"], Wish())


def answers(model, windows):
    decoder = Decoder.load(model)
    return np.concatenate([log_softmax(decoder.forward(np.array(window.token_ids))) for window in windows])


def test_every_group_is_measured_once(model, found):
    names = [name for unit in found.units for name in unit.names]
    assert sorted(names) == sorted(name for group in groups_of(model) for name in group.names)
    assert set(found.tensors) == set(names)


def rounding_bound(model, windows):
    """What float32 may make of sum p (log p - z) + log sum exp z.

    Of logits z and S = log sum exp z, each log p = z - S is rounded by eps |log p|, which comes to eps times the
    entropy, and moves the sum of all p from 1; so does the rounding of S, of exp, log and two sums. By that S is
    multiplied.
    """
    decoder = Decoder.load(model)
    logits = np.concatenate([decoder.forward(np.array(window.token_ids)) for window in windows]).astype(np.float64)
    sums = np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1, keepdims=True)) + logits.max(1, keepdims=True)
    logs, sums = logits - sums, np.abs(sums)
    entropy = -(np.exp(logs) * logs).sum(1, keepdims=True)
    return float(np.finfo(np.float32).eps * (entropy + sums * (entropy + sums + 4)).mean())


def test_the_measuring_itself_makes_next_to_nothing(model, found):
    bound = rounding_bound(model, calibration_windows(model, TEXT, found.tokens))
    assert bound < 1e-3
    assert abs(found.floor) <= bound
    assert all(unit.kl >= -bound for unit in found.units)


def test_a_unit_moves_the_answers_as_far_as_a_file_with_it_rounded(model, found, tmp_path):
    # Embedding and head: they are rounded without knowing their input, as a plain rule does.
    windows = calibration_windows(model, TEXT, found.tokens)[:2]
    outer = [unit for unit in found.units if unit.names[0].startswith(("model.embed", "lm_head"))]
    assert len(outer) == (1 if model.config.get("tie_word_embeddings") else 2)
    original = answers(model, windows)
    for unit in outer:
        rules = tuple(Rule(name, found.tensors[name].low) for name in unit.names)
        if found.tensors[unit.names[0]].low.name != "q3_k":
            continue
        plan = make_plan(model, CONTAINERS["gguf"], Wish(rules=rules))
        path = quantization.quantize(model, tmp_path / f"{unit.names[0]}.gguf", plan).output
        rounded = answers(open_checkpoint(path), windows)
        kl = np.einsum("tv,tv->t", np.exp(original), original - rounded).mean()
        # All windows against two of them.
        assert unit.kl == pytest.approx(kl, rel=0.2)


def test_errors_fall_with_the_bits(found):
    for tensor in found.tensors.values():
        by_name = tensor.errors
        for larger, smaller in (
            ("q2_k", "q3_k"),
            ("q3_k", "q4_k"),
            ("q4_k", "q6_k"),
            ("q4_0", "q5_0"),
            ("q5_0", "q8_0"),
        ):
            if larger in by_name and smaller in by_name:
                assert by_name[larger] > by_name[smaller] > 0


def test_the_solver_gains_and_most_on_linear_layers(model, found):
    for name, tensor in found.tensors.items():
        assert 0.3 <= tensor.gain <= 1
        assert tensor.gain < 1 or "embed" in name or "lm_head" in name
    plain = sensing.sense(model, groups_of(model), TEXT, calibrated=False, most_operations=1.0)
    assert {tensor.gain for tensor in plain.tensors.values()} == {1.0}


def test_less_work_is_done_role_by_role_and_on_less_text(model):
    groups = groups_of(model)
    fine = sensing.sensitivity_schedule(model, groups)
    coarse = sensing.sensitivity_schedule(model, groups, fine.operations / 100)
    assert [len(unit) for unit in fine.units] == [len(group.names) for group in groups]
    assert len(coarse.units) < len(fine.units)
    assert coarse.tokens < fine.tokens
    assert sorted(n for unit in coarse.units for n in unit) == sorted(n for unit in fine.units for n in unit)
    for unit in coarse.units:
        assert len({name.split(".")[-2] for name in unit}) == 1 or any("experts" in name for name in unit)


def test_role_by_role_gives_the_same_sum_to_within_what_adds_up(model, found):
    groups = groups_of(model)
    coarse = sensing.sense(model, groups, TEXT, most_operations=1.0)
    together = sum(unit.kl for unit in coarse.units)
    apart = sum(unit.kl for unit in found.units)
    assert math.isclose(together, apart, rel_tol=0.7)


def test_the_same_twice(model, found):
    assert sensing.sense(model, groups_of(model), TEXT) == found


def test_a_model_that_cannot_be_run_says_so(tmp_path):
    tiny_models.save_tiny("llama", tmp_path / "model")
    (tmp_path / "model" / "tokenizer.json").unlink()
    checkpoint = open_checkpoint(tmp_path / "model")
    with pytest.raises(UnsupportedError, match="tokenizer"):
        sensing.sense(checkpoint, groups_of(checkpoint), TEXT)
