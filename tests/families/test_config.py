"""Configurations are checked, never guessed at and never ignored."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tiny_models
from halfpint import families
from halfpint.errors import CheckpointError, HalfpintError, UnsupportedError
from halfpint.families import LinearScaling, Llama3, LongRope, Yarn

LLAMA = {
    "model_type": "llama",
    "vocab_size": 1000,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
}
GEMMA3 = {**LLAMA, "model_type": "gemma3_text", "num_hidden_layers": 12, "head_dim": 16, "num_key_value_heads": 2}


def test_what_is_left_out_has_the_defaults_of_the_class():
    config = families.read_config(LLAMA)
    assert (config.kv_heads, config.head_dim, config.tied_embeddings) == (4, 16, False)
    assert config.rope == families.Rope(10000.0, 16)
    gemma = families.read_config(GEMMA3)
    assert gemma.tied_embeddings
    assert gemma.sliding_layers == frozenset(range(12)) - {5, 11}
    assert (gemma.rope.theta, gemma.sliding_rope.theta) == (1e6, 1e4)
    assert gemma.query_scale == 1 / 16
    assert gemma.embedding_scale == 8


@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_every_family_is_found_by_type_and_by_architecture(family):
    record = families.FAMILIES[family]
    assert families.find({"model_type": family}) is record
    assert families.find({"architectures": [record.architecture]}) is record


def test_an_unknown_family_is_none_to_find_and_an_error_to_read():
    assert families.find({"model_type": "mamba"}) is None
    assert families.find({}) is None
    with pytest.raises(UnsupportedError, match="mamba"):
        families.read_config({"model_type": "mamba"})


@pytest.mark.parametrize("key", ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"])
@pytest.mark.parametrize("value", [None, 0, -1, 2.5, "64", True, 1 << 60, [64]])
def test_an_impossible_size_is_named(key, value):
    with pytest.raises(CheckpointError, match=key):
        families.read_config({**LLAMA, key: value})


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"num_key_value_heads": 3}, "num_key_value_heads"),
        ({"hidden_size": 66}, "num_attention_heads"),
        ({"head_dim": 15}, "even"),
        ({"rms_norm_eps": 0}, "rms_norm_eps"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps"),
        ({"rope_theta": float("inf")}, "rope_theta"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings"),
        ({"eos_token_id": "x"}, "eos_token_id"),
        ({"rope_scaling": {"type": "linear"}}, "factor"),
        ({"rope_scaling": "linear"}, "rope_scaling"),
    ],
)
def test_an_impossible_value_is_named(change, word):
    with pytest.raises(CheckpointError, match=word):
        families.read_config({**LLAMA, **change})


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"rope_scaling": {"type": "proportional", "factor": 2.0}}, "proportional"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0, "mrope_section": [1]}}, "mrope_section"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"hidden_act": "relu"}, "relu"),
        ({"model_type": "qwen3_moe", "mlp_only_layers": [0]}, "mlp_only_layers"),
        ({"model_type": "qwen3_moe", "decoder_sparse_step": 2}, "decoder_sparse_step"),
        ({"model_type": "mistral", "num_key_value_heads": 2, "attention_bias": True}, "attention_bias"),
        ({"model_type": "qwen2", "mlp_bias": True}, "mlp_bias"),
        ({"model_type": "gemma2", "use_bidirectional_attention": True}, "bidirectional"),
        (
            {"model_type": "gemma2", "layer_types": ["chunked_attention"] * 3},
            "chunked_attention",
        ),
    ],
)
def test_what_is_not_implemented_is_named_and_never_ignored(change, word):
    with pytest.raises(UnsupportedError, match=word):
        families.read_config({**LLAMA, **change})


GARBAGE = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.lists(st.integers(), max_size=3)
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from([*LLAMA, "rope_scaling", "head_dim", "layer_types", "eos_token_id"]), GARBAGE)
def test_garbage_ends_in_our_errors(key, value):
    with contextlib.suppress(HalfpintError):
        families.read_config({**LLAMA, key: value})
    with contextlib.suppress(HalfpintError):
        families.read_config({**GEMMA3, key: value})


@pytest.mark.parametrize(
    ("words", "scaling"),
    [
        ({"type": "linear", "factor": 4.0}, LinearScaling(4.0)),
        (
            {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
             "original_max_position_embeddings": 8192},
            Llama3(8.0, 1.0, 4.0, 8192),
        ),
        ({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512},
         Yarn(4.0, 512, 32.0, 1.0, 1.1386294361119891, True)),
        ({"type": "su", "short_factor": [1] * 8, "long_factor": [2] * 8, "original_max_position_embeddings": 2048},
         LongRope((1.0,) * 8, (2.0,) * 8, 2048, 1.0)),
    ],
)  # fmt: skip
def test_rope_scaling_is_read_in_old_words_and_new(words, scaling):
    old = families.read_config({**LLAMA, "rope_theta": 5e5, "rope_scaling": words})
    new = families.read_config({**LLAMA, "rope_parameters": {**words, "rope_theta": 5e5}})
    assert old.rope == new.rope == families.Rope(5e5, 16, scaling)


@pytest.mark.parametrize("name", ["babyllama-105", "stories260K"])
def test_real_models_are_read(name):
    folder = Path(__file__).parents[2] / ".." / "shared" / "models" / name
    if not folder.is_dir():
        pytest.skip(f"{name} is not beside this checkout")
    assert families.find(json.loads((folder / "config.json").read_text())) is families.FAMILIES["llama"]
