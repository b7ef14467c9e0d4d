"""GGUF metadata say what the configuration says, and back."""

from __future__ import annotations

import dataclasses

import gguf
import numpy as np
import pytest

import tiny_models
from halfpint import families
from halfpint.errors import CheckpointError, UnsupportedError

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
LONGROPE = {
    "rope_type": "longrope",
    "short_factor": [1.0 + 0.1 * i for i in range(16)],
    "long_factor": [2.0 + 0.1 * i for i in range(16)],
    "original_max_position_embeddings": 32,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
VARIANTS = {
    **{name: (name, {}) for name in tiny_models.FAMILIES},
    "llama tied": ("llama", {"tie_word_embeddings": True}),
    "llama with biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama with llama3 rope": ("llama", {"rope_scaling": LLAMA3, "rope_theta": 5e5}),
    "llama with linear rope": ("llama", {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}),
    "mistral with a window": ("mistral", {"sliding_window": 16}),
    "qwen2 with a window": ("qwen2", {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1}),
    "qwen2 with yarn": ("qwen2", {"rope_scaling": YARN}),
    "phi3 with longrope": ("phi3", {"rope_scaling": LONGROPE}),
    "phi3 in part": ("phi3", {"partial_rotary_factor": 0.5}),
}


def config_of(family: str, **overrides):
    config = tiny_models.tiny_config(family).to_dict()
    if "rope_scaling" in overrides or "partial_rotary_factor" in overrides:
        del config["rope_parameters"]
    if "use_sliding_window" in overrides:
        del config["layer_types"]
    return {**config, **overrides}


def shapes_of(config):
    model = families.read_config(config)
    tensors = families.FAMILIES[model.family].tensors(model)
    return {tensor.gguf_name: tensor.shape for tensor in tensors if not tensor.optional}


def through_float32(value):
    return float(np.float32(value)) if isinstance(value, float) else value


@pytest.mark.parametrize("name", VARIANTS)
def test_a_configuration_survives_gguf(name):
    family, overrides = VARIANTS[name]
    config = config_of(family, **overrides)
    metadata = {key: through_float32(value) for key, value in families.gguf_metadata(config).items()}
    metadata |= {"tokenizer.ggml.bos_token_id": 0, "tokenizer.ggml.eos_token_id": 1}
    back = families.hf_config(metadata, shapes_of(config), families.gguf_tensors(config))
    before, after = families.read_config(config), families.read_config(back)
    # A Mistral without a window is a Llama: GGUF does not tell them apart.
    assert after.family == ("llama" if name == "mistral" else before.family)
    for field in dataclasses.fields(before):
        if field.name not in ("family", "rope", "sliding_rope"):
            assert getattr(after, field.name) == getattr(before, field.name), field.name
    for kind in ("rope", "sliding_rope"):
        for positions in (16, 100):
            frequencies = families.inverse_frequencies(getattr(before, kind), positions)
            again = families.inverse_frequencies(getattr(after, kind), positions)
            np.testing.assert_allclose(again, frequencies, rtol=1e-6)
        assert getattr(after, kind).attention_factor == pytest.approx(getattr(before, kind).attention_factor)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_key_is_one_that_ggufs_own_package_knows(name):
    family, overrides = VARIANTS[name]
    known = {
        value
        for group in (gguf.Keys.General, gguf.Keys.LLM, gguf.Keys.Attention, gguf.Keys.Rope)
        for value in vars(group).values()
        if isinstance(value, str)
    }
    metadata = families.gguf_metadata(config_of(family, **overrides))
    architecture = metadata["general.architecture"]
    assert architecture in gguf.MODEL_ARCH_NAMES.values()
    for key in metadata:
        assert key.replace(f"{architecture}.", "{arch}.", 1) in known


def test_llama3_divisors_are_those_of_llama_cpps_converter():
    config = config_of("llama", rope_scaling=LLAMA3, rope_theta=5e5)
    divisors = families.gguf_tensors(config)["rope_freqs.weight"]
    assert divisors.dtype == np.float32
    assert divisors.shape == (16,)
    # Wavelengths below 2048 stay, those above 8192 are divided by 8.
    wavelengths = 2 * np.pi * 5e5 ** (np.arange(16) / 16)
    assert (divisors[wavelengths < 2048] == 1).all()
    assert (divisors[wavelengths > 8192] == 8).all()
    between = (wavelengths >= 2048) & (wavelengths <= 8192)
    smooth = (8192 / wavelengths[between] - 1) / 3
    np.testing.assert_allclose(divisors[between], 1 / ((1 - smooth) / 8 + smooth), rtol=1e-6)


def test_unknown_divisors_are_kept_as_a_list():
    config = config_of("llama", rope_scaling={**LLAMA3, "factor": 5.0})
    factors = families.gguf_tensors(config)
    back = families.hf_config(families.gguf_metadata(config), shapes_of(config), factors)
    assert back["rope_scaling"]["rope_type"] == "longrope"
    again = families.gguf_tensors(back)
    assert np.array_equal(again["rope_freqs.weight"], factors["rope_freqs.weight"])


@pytest.mark.parametrize(
    ("family", "overrides", "word"),
    [
        ("gemma2", {"query_pre_attn_scalar": 24}, "query_pre_attn_scalar"),
        ("gemma2", {"final_logit_softcapping": None}, "caps"),
        ("gemma2", {"tie_word_embeddings": False}, "head"),
        ("gemma3_text", {"layer_types": ["sliding_attention"] * 6}, "full layer"),
        ("gemma3_text", {"attn_logit_softcapping": 30.0}, "softcap"),
        ("qwen3_moe", {"norm_topk_prob": False}, "norm_topk_prob"),
        ("qwen3", {"attention_bias": True}, "biases"),
        ("smollm3", {"no_rope_layers": [1, 1, 1, 1]}, "fourth layer"),
        ("qwen2", {"rope_scaling": LLAMA3}, "llama3"),
        ("qwen2", {"rope_scaling": LONGROPE}, "longrope"),
        ("llama", {"rope_scaling": {**YARN, "attention_factor": 2.0}}, "attention_factor"),
    ],
)
def test_what_llama_cpp_would_compute_differently_is_refused(family, overrides, word):
    config = config_of(family, **overrides)
    families.read_config(config)
    with pytest.raises(UnsupportedError, match=word):
        families.gguf_metadata(config)


def test_a_window_that_llama_cpp_ignores_is_said():
    assert families.gguf_notes(config_of("mistral", sliding_window=16))
    assert not families.gguf_notes(config_of("mistral"))
    assert not families.gguf_notes(config_of("gemma2"))


def test_broken_metadata_are_named():
    config = config_of("llama")
    metadata, shapes = families.gguf_metadata(config), shapes_of(config)
    with pytest.raises(CheckpointError, match="block_count"):
        families.hf_config({**metadata, "llama.block_count": 0}, shapes, {})
    with pytest.raises(CheckpointError, match="token_embd"):
        families.hf_config(metadata, {}, {})
    with pytest.raises(UnsupportedError, match="mamba"):
        families.hf_config({"general.architecture": "mamba"}, shapes, {})
