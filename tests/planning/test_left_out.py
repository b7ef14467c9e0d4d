"""What is no weight is left out with a line; what stands for no weight where one is multiplied is refused."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import tiny_models
from halfpint.checkpoints import CONTAINERS, open_checkpoint
from halfpint.engine.decoder import Decoder
from halfpint.errors import HalfpintError, UnsupportedError, UsageError
from halfpint.pipeline import verbs
from halfpint.pipeline.options import QuantizeOptions

LINEAR = "model.layers.0.mlp.down_proj.weight"
ROLES = (
    LINEAR,
    "model.embed_tokens.weight",
    "lm_head.weight",
    "model.norm.weight",
    "model.layers.1.self_attn.q_proj.weight",
)
DTYPES = (
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.uint8,
    torch.int8,
    torch.int32,
    torch.int64,
    torch.bool,
)
PLAIN = QuantizeOptions(bits=8, calibrate=False, measure=None)


def options(container: str) -> QuantizeOptions:
    if container == "huggingface":
        return QuantizeOptions(rules=("*.weight=f32",), container=container, calibrate=False, measure=None)
    return QuantizeOptions(bits=8, container=container, calibrate=False, measure=None)


def changed(path: Path, change) -> Path:
    tiny_models.save_tiny("llama", path, tie_word_embeddings=False)
    stored = load_file(path / "model.safetensors")
    change(stored)
    save_file(stored, path / "model.safetensors", metadata={"format": "pt"})
    return path


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ROLES)
def test_numbers_that_are_no_weights_are_refused_by_name(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    path = changed(tmp_path / "model", lambda stored: stored.update({name: stored[name].mul(8).to(dtype)}))
    for verb in (
        lambda: verbs.verify(path),
        lambda: verbs.plan(path, PLAIN),
        lambda: verbs.quantize(path, tmp_path / "out.gguf", PLAIN),
        lambda: Decoder.load(open_checkpoint(path)),
    ):
        with pytest.raises(HalfpintError, match=re.escape(name)):
            verb()
    assert not (tmp_path / "out.gguf").exists()


def test_codes_without_scales_are_told_which_scales_are_missing(tmp_path: Path) -> None:
    path = changed(tmp_path, lambda stored: stored.update({LINEAR: stored[LINEAR].to(torch.float8_e4m3fn)}))
    with pytest.raises(UnsupportedError, match=r"weight_scale_inv or .*weight_scale"):
        verbs.verify(path)


@pytest.mark.parametrize("name", ROLES)
@pytest.mark.parametrize("container", CONTAINERS)
def test_float64_is_converted(name: str, container: str, tmp_path: Path) -> None:
    path = changed(tmp_path / "model", lambda stored: stored.update({name: stored[name].double()}))
    verbs.verify(path)
    wanted = options(container)
    planned = verbs.plan(path, wanted).plan
    found = open_checkpoint(verbs.quantize(path, tmp_path / "out", wanted).output)
    assert open_checkpoint(path).read(name).dtype == np.float32
    assert np.isfinite(Decoder.load(found).forward(np.arange(5))).all()
    assert planned.nbytes == found.weight_bytes


def test_float64_beyond_float32_is_refused(tmp_path: Path) -> None:
    path = changed(tmp_path, lambda stored: stored.update({LINEAR: stored[LINEAR].double() * 1e200}))
    with pytest.raises(UnsupportedError, match="beyond float32"):
        verbs.verify(path)


NO_WEIGHTS = {
    "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8),
    "model.rotary_emb.inv_freq": torch.ones(8),
    "model.layers.1.mlp.up_proj.input_scale": torch.ones(1),
    "model.layers.0.self_attn.k_proj.output_scale": torch.ones(()),
    "model.layers.0.self_attn.attn.k_scale": torch.ones(()),
    "model.layers.0.attention.masked_bias": torch.tensor(-1e9),
    "model.layers.0.attention.bias": torch.ones(1, 1, 16, 16, dtype=torch.bool),
    "model.embeddings.position_ids": torch.arange(16)[None],
}


@pytest.mark.parametrize("container", CONTAINERS)
def test_what_is_no_weight_is_left_out_with_a_line_each(container: str, tmp_path: Path) -> None:
    path = changed(tmp_path / "model", lambda stored: stored.update(NO_WEIGHTS))
    result = verbs.quantize(path, tmp_path / "out", options(container))
    assert {name for name, _ in result.planned.plan.dropped} == set(NO_WEIGHTS)
    assert all(reason for _, reason in result.planned.plan.dropped)
    assert not set(NO_WEIGHTS) & set(open_checkpoint(result.output).tensors)
    notes = verbs.verify(path).notes
    assert all(any(name in note for note in notes) for name in NO_WEIGHTS)


def test_a_rule_drops_what_it_names_and_nothing_that_is_needed(tmp_path: Path) -> None:
    extra = {"model.layers.0.extra.weight": torch.ones(4, 4), "vision.patch": torch.ones(3)}
    path = changed(tmp_path / "model", lambda stored: stored.update(extra))
    with pytest.raises(UnsupportedError, match="extra"):
        verbs.quantize(path, tmp_path / "out.gguf", PLAIN)
    wanted = QuantizeOptions(bits=8, rules=("*extra*=drop", "vision.*=drop"), calibrate=False, measure=None)
    result = verbs.quantize(path, tmp_path / "out.gguf", wanted)
    assert {name for name, _ in result.planned.plan.dropped} == set(extra)
    for pattern in ("*down_proj*=drop", "lm_head*=drop", "*=drop"):
        with pytest.raises(UsageError, match="cannot run without"):
            verbs.plan(path, QuantizeOptions(bits=8, rules=(pattern,), calibrate=False))
    verbs.save_plan(path, result.planned, tmp_path / "plan.toml")
    again = QuantizeOptions(plan_file=tmp_path / "plan.toml", calibrate=False, measure=None)
    assert (
        verbs.quantize(path, tmp_path / "again.gguf", again).output.read_bytes() == (tmp_path / "out.gguf").read_bytes()
    )


def test_verify_counts_what_it_did_not_look_into(tmp_path: Path) -> None:
    path = changed(tmp_path, lambda stored: stored.update({"counter": torch.arange(3)}))
    assert verbs.verify(path).unchecked == 1


@pytest.mark.parametrize("fmt", ["iq4_nl", "q8_0", "q4_k"])
def test_a_tensor_of_which_most_is_lost_is_warned_of(fmt: str, tmp_path: Path) -> None:
    path = changed(tmp_path / "model", lambda stored: stored.update({LINEAR: stored[LINEAR] * 1e-7}))
    result = verbs.quantize(path, tmp_path / "out.gguf", QuantizeOptions(format=fmt, calibrate=False, measure=None))
    assert [note for note in result.notes if note.startswith(LINEAR) and "is lost" in note]
    assert len([note for note in result.notes if "is lost" in note]) == 1


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("scale", [torch.ones(()), torch.ones(1), torch.ones(2, 2)])
def test_codes_that_are_not_read_are_refused_before_what_lies_beside_them(
    container: str, scale: torch.Tensor, tmp_path: Path
) -> None:
    codes = {LINEAR: torch.ones(128, 256).to(torch.float8_e5m2), f"{LINEAR}_scale": scale}
    path = changed(tmp_path, lambda stored: stored.update(codes))
    with pytest.raises(UnsupportedError, match=f"{re.escape(LINEAR)} .*F8_E5M2"):
        verbs.plan(path, options(container))
