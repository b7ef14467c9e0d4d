"""What fits into a memory: keys and values to the byte, and tables that cover every engine."""

import json
from dataclasses import replace

import numpy as np
import pytest

import tiny_models
from halfpint.engine.cache import Cache
from halfpint.engine.generation import PREFILL_CHUNK
from halfpint.errors import RoomError, UsageError
from halfpint.families import read_config
from halfpint.kernels.key_values import KeyValues
from halfpint.planning.engines import ENGINES
from halfpint.planning.memory import ENGINE_MEMORY, kv_bytes, memory_need, working_bytes

LLAMA_2_7B = {
    "model_type": "llama",
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
}
LLAMA = read_config(LLAMA_2_7B)
MISTRAL = read_config(LLAMA_2_7B | {"model_type": "mistral", "sliding_window": 1024, "max_position_embeddings": 32768})


def test_every_engine_has_a_row():
    assert set(ENGINE_MEMORY) == {engine.name for engine in ENGINES}


def test_keys_and_values_are_counted_to_the_byte():
    # 2 x 32 layers x 4096 numbers x 2 bytes: the half a megabyte per token that everybody knows of Llama-2-7B.
    assert kv_bytes(LLAMA, 4096, ENGINE_MEMORY["llama.cpp"]) == 4096 * 2 * 32 * 4096 * 2 == 2**31
    assert kv_bytes(LLAMA, 4096, ENGINE_MEMORY["halfpint"]) == 2**31


@pytest.mark.parametrize("tokens", [1, 255, 256, 257, 700])
@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_what_is_planned_for_our_engine_is_what_its_cache_holds(family, tokens, tmp_path):
    tiny_models.save_tiny(family, tmp_path)
    config = read_config(json.loads((tmp_path / "config.json").read_text()))
    cache = Cache(config, limit=tokens)
    row = np.zeros((tokens, config.kv_heads * config.head_dim), np.float32)
    for layer in cache.layers:
        layer.append(row, row)
    assert cache.nbytes == kv_bytes(config, tokens, ENGINE_MEMORY["halfpint"])


def test_a_layer_of_a_large_model_takes_what_is_planned():
    layer = KeyValues("f16", LLAMA.kv_heads, LLAMA.head_dim)
    row = np.zeros((4096, LLAMA.kv_heads * LLAMA.head_dim), np.float32)
    layer.append(row, row)
    assert LLAMA.layers * layer.nbytes == kv_bytes(LLAMA, 4096, ENGINE_MEMORY["halfpint"])


def test_prompts_are_planned_in_the_pieces_in_which_they_are_read():
    assert ENGINE_MEMORY["halfpint"].batch_tokens == PREFILL_CHUNK
    assert ENGINE_MEMORY["halfpint"].kv_number_bytes == 2


def test_a_sliding_window_bounds_keys_and_values_where_the_engine_knows_of_it():
    engine = ENGINE_MEMORY["llama.cpp"]
    bounded = kv_bytes(MISTRAL, 1024 + engine.batch_tokens, engine)
    assert kv_bytes(MISTRAL, 32768, engine) == bounded
    assert kv_bytes(MISTRAL, 32768, ENGINE_MEMORY["vllm"]) == 32 * kv_bytes(MISTRAL, 1024, ENGINE_MEMORY["vllm"])


def test_llama_cpp_reserves_what_it_says_it_reserves():
    # A log of it: `n_ubatch = 32`, `CPU compute buffer size = 15.97 MiB` (github.com/microsoft/BitNet/issues/229).
    sizes = {"hidden_size": 2560, "intermediate_size": 6912, "vocab_size": 128256, "num_hidden_layers": 30}
    heads = {"num_attention_heads": 20, "num_key_value_heads": 5}
    engine = replace(ENGINE_MEMORY["llama.cpp"], batch_tokens=32, logits_tokens=32)
    estimate = working_bytes(read_config(LLAMA_2_7B | sizes | heads), 2048, engine) / 2**20
    assert 15.97 <= estimate <= 1.05 * 15.97


@pytest.mark.parametrize("engine", sorted(ENGINE_MEMORY))
def test_the_parts_add_up_and_more_text_leaves_less_for_weights(engine):
    needs = [memory_need(LLAMA, 24 * 10**9, tokens, engine) for tokens in (256, 1024, 4096)]
    for need in needs:
        parts = need.resting_bytes + need.kv_bytes + need.working_bytes + need.weights_bytes
        assert parts == int(ENGINE_MEMORY[engine].share * need.memory_bytes)
    left = [need.weights_bytes for need in needs]
    assert left == sorted(left, reverse=True)


def test_no_context_said_takes_4096_or_the_models_longest():
    assert memory_need(MISTRAL, 10**11).context_tokens == 4096
    assert memory_need(read_config(LLAMA_2_7B | {"max_position_embeddings": 512}), 10**11).context_tokens == 512


def test_too_long_a_context_and_too_small_a_memory_are_refused():
    with pytest.raises(UsageError, match="at most 4096"):
        memory_need(LLAMA, 10**11, 4097)
    with pytest.raises(RoomError, match=r"keys and values of 4096 tokens 2,147,483,648"):
        memory_need(LLAMA, 2 * 10**9, 4096, "llama.cpp")
