"""The forward pass agrees with transformers on random models of every family, whole and token by token."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import transformers

import tiny_models
from halfpint.checkpoints import open_checkpoint
from halfpint.engine import weights
from halfpint.engine.block import load_block
from halfpint.engine.cache import Cache
from halfpint.engine.decoder import Decoder, load_ends
from halfpint.engine.generation import Generation
from halfpint.engine.sequence import GenerationOptions
from halfpint.engine.steps import perform
from halfpint.errors import CheckpointError, RoomError, UsageError
from halfpint.families import read_config

TOKENS = 70
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 64}
LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
SHORT = [1.0 + 0.05 * i for i in range(12)]
LONG = [1.5 + 0.25 * i for i in range(12)]
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "partial_rotary_factor": 0.75,
    "short_factor": SHORT,
    "long_factor": LONG,
    "original_max_position_embeddings": 32,
}
GLOBAL_AND_LOCAL = {
    "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
}
MODELS = {
    **{family: (family, {}) for family in tiny_models.FAMILIES},
    "llama tied": ("llama", {"tie_word_embeddings": True}),
    "llama with biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama with llama3 rope": ("llama", {"rope_parameters": LLAMA3}),
    "llama with yarn": ("llama", {"rope_parameters": YARN}),
    "llama with linear rope": ("llama", {"rope_parameters": LINEAR}),
    "llama with all heads": ("llama", {"num_key_value_heads": 4}),
    "llama with one key head": ("llama", {"num_key_value_heads": 1}),
    "mistral with a window": ("mistral", {"sliding_window": 9}),
    "mixtral with a window": ("mixtral", {"sliding_window": 9}),
    "qwen2 tied": ("qwen2", {"tie_word_embeddings": True}),
    "qwen2 with a window": ("qwen2", {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1}),
    "qwen3 with biases": ("qwen3", {"attention_bias": True}),
    "qwen3_moe unnormalised": ("qwen3_moe", {"norm_topk_prob": False}),
    "qwen3_moe with a window": ("qwen3_moe", {"use_sliding_window": True, "sliding_window": 9}),
    "gemma2 with another scale": ("gemma2", {"query_pre_attn_scalar": 24}),
    "gemma3 with global rope": ("gemma3_text", {"rope_parameters": GLOBAL_AND_LOCAL}),
    "phi3 with a window": ("phi3", {"sliding_window": 9}),
    "phi3 in part": ("phi3", {"rope_parameters": {**LINEAR, "rope_type": "default", "partial_rotary_factor": 0.5}}),
    "phi3 with longrope": ("phi3", {"rope_parameters": LONGROPE}),
    "llama with dynamic rope": (
        "llama",
        {"rope_parameters": {"rope_type": "dynamic", "factor": 3.0, "rope_theta": 1e4}, "max_position_embeddings": 40},
    ),
    "llama with rope_scaling beside rope_parameters": (
        "llama",
        {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}, "ADDED": {"rope_scaling": LINEAR}},
    ),
    "qwen2 with a yarn added by hand": (
        "qwen2",
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}, "ADDED": {"rope_scaling": YARN}},
    ),
    "mistral with another rope_theta": (
        "mistral",
        {
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
            "ADDED": {"rope_theta": 3e4, "rope_scaling": {"type": "linear", "factor": 2.0}},
        },
    ),
    "olmo2 tied": ("olmo2", {"tie_word_embeddings": True}),
    "smollm3 with a window": ("smollm3", {"use_sliding_window": True, "sliding_window": 9}),
}


# Their frequencies depend on the length of the text.
VARYING = ("phi3 with longrope", "llama with dynamic rope")


def save(name: str, folder, **overrides):
    family, own = MODELS[name]
    own = dict(own)
    added = own.pop("ADDED", None)
    model = tiny_models.save_tiny(family, folder, **own, **overrides)
    if added is None:
        return model
    # Words that somebody adds to config.json by hand.
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | added))
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def random_ids(count: int = TOKENS) -> np.ndarray:
    return np.random.default_rng(0).integers(0, tiny_models.VOCAB_SIZE, count)


def expected_logits(model, ids: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model(torch.from_numpy(ids)[None]).logits[0].numpy()


def assert_close(logits: np.ndarray, expected: np.ndarray) -> None:
    scale = np.abs(expected).max()
    assert np.isfinite(logits).all()
    assert np.abs(logits - expected).max() <= 1e-4 * scale


@pytest.fixture(scope="module", params=MODELS)
def truth(request, tmp_path_factory):
    """A decoder, and the logits of transformers for the same weights."""
    folder = tmp_path_factory.mktemp("model")
    model = save(request.param, folder)
    ids = random_ids()
    return request.param, Decoder.load(open_checkpoint(folder)), ids, expected_logits(model, ids)


def test_logits_of_a_prompt_are_those_of_transformers(truth):
    _, decoder, ids, expected = truth
    assert_close(decoder.forward(ids), expected)


def test_a_cache_gives_the_logits_of_the_whole_text(truth):
    name, decoder, ids, expected = truth
    cache = Cache(decoder.config, kind="f32")
    pieces = [decoder.forward(ids[:13], cache), decoder.forward(ids[13:24], cache)]
    pieces += [decoder.forward(ids[place : place + 1], cache) for place in range(24, len(ids))]
    assert cache.length == len(ids)
    if name in VARYING:  # scores of tokens that stood in a shorter text are those of that text
        assert_close(pieces[-1], expected[-1:])
    else:
        assert_close(np.concatenate(pieces), expected)


@pytest.mark.parametrize("name", VARYING)
@pytest.mark.parametrize("pieces", [[40, 20], [39, 1, 20], [1, 58, 1], [20, 13, 7, 19, 1], [59, 1]])
def test_a_text_read_in_any_pieces_ends_as_in_one(name, pieces, tmp_path):
    model = save(name, tmp_path)
    decoder, ids = Decoder.load(open_checkpoint(tmp_path)), random_ids(sum(pieces))
    expected = expected_logits(model, ids)[-1:]
    cache, start = Cache(decoder.config, kind="f32"), 0
    for count in pieces:
        found = decoder.forward(ids[start : start + count], cache, last_only=True)
        start += count
    assert_close(found, expected)
    # Back to a shorter text, and on again.
    cache.truncate(10)
    short = decoder.forward(ids[10:20], cache, last_only=True)
    assert_close(short, expected_logits(model, ids[:20])[-1:])
    assert_close(decoder.forward(ids[20:], cache, last_only=True), expected)
    # Beside other texts.
    caches = [Cache(decoder.config, kind="f32") for _ in range(2)]
    decoder.forward(ids[:-1], caches[0])
    decoder.forward(ids[:20], caches[1])
    both = decoder.forward_many([ids[-1:], ids[20:21]], caches)
    assert_close(both[:1], expected)
    assert_close(both[1:], expected_logits(model, ids[:21])[-1:])


@pytest.mark.parametrize("name", VARYING)
def test_guesses_change_no_token_where_a_text_grows_beyond_its_original_length(name, tmp_path):
    save(name, tmp_path)
    decoder, ids = Decoder.load(open_checkpoint(tmp_path), activations="int8"), np.tile(random_ids(5), 5)
    plain, drafted = (
        list(Generation(decoder, ids.tolist(), GenerationOptions(max_tokens=30, draft_tokens=count)))
        for count in (0, 6)
    )
    assert plain == drafted


@pytest.mark.parametrize("name", ["llama", "gemma3_text", "phi3", "qwen3_moe", "olmo2"])
def test_one_block_at_a_time_is_the_same_computation(name, tmp_path):
    save(name, tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    config = read_config(checkpoint.config)
    ids = np.random.default_rng(1).integers(0, config.vocab_size, (3, 20))
    ends = load_ends(checkpoint, config)
    hidden = ends.embed(ids)
    for layer in range(config.layers):
        hidden = load_block(checkpoint, config, layer).forward(hidden)
    decoder = Decoder.load(checkpoint)
    for sequence in range(3):
        assert_close(ends.head(hidden)[sequence], decoder.forward(ids[sequence]))


@pytest.mark.parametrize("name", ["llama", "phi3", "qwen3_moe", "mixtral"])
def test_every_product_of_a_block_shows_its_input(name, tmp_path):
    save(name, tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    config = read_config(checkpoint.config)
    seen: dict[str, np.ndarray] = {}
    hidden = load_ends(checkpoint, config).embed(random_ids(40).reshape(2, 20))
    block = load_block(checkpoint, config, 0)
    plain = block.forward(hidden)

    def observe(request):
        seen.update({projection.name: request.x.copy() for projection in request.projections})
        return perform(request)

    observed = block.forward(hidden, perform=observe)
    assert np.array_equal(plain, observed)
    weights = {name for name, spec in checkpoint.tensors.items() if ".layers.0." in name and len(spec.shape) == 2}
    assert set(seen) == weights
    assert all(x.shape[1] == checkpoint.tensors[tensor].shape[1] for tensor, x in seen.items())
    assert all(x.shape[0] == 40 for tensor, x in seen.items() if "expert" not in tensor)


def test_a_weight_can_be_replaced_on_the_way(tmp_path):
    save("llama", tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    ids = random_ids(12)

    def without_mlp(tensor, weight):
        return np.zeros_like(weight) if "down_proj" in tensor else weight

    plain = Decoder.load(checkpoint).forward(ids)
    assert not np.allclose(plain, Decoder.load(checkpoint, without_mlp).forward(ids))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_weights_stay_as_they_are_and_agree(dtype, tmp_path):
    save("llama", tmp_path, dtype=dtype)
    ids = random_ids()
    decoder = Decoder.load(open_checkpoint(tmp_path))
    projections = 2 * 128 * 128 + 2 * 64 * 128 + 3 * 256 * 128
    assert decoder.blocks[0].nbytes == 2 * projections + 4 * 2 * 128
    truth = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, dtype=torch.float32, attn_implementation="eager"
    )
    assert_close(decoder.forward(ids), expected_logits(truth, ids))


def test_a_large_embedding_stays_in_its_file(tmp_path, monkeypatch):
    save("llama", tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    ids = random_ids()
    held = Decoder.load(checkpoint, activations="int8")
    monkeypatch.setattr(weights, "LARGE_TABLE_BYTES", 1)
    left = Decoder.load(checkpoint, activations="int8")
    assert left.nbytes == held.nbytes - held.ends.embedding.nbytes
    assert np.array_equal(left.forward(ids), held.forward(ids))
    assert Decoder.load(checkpoint).ends.embedding.nbytes > 0


def test_only_the_last_token_can_be_scored(tmp_path):
    save("gemma2", tmp_path)
    decoder = Decoder.load(open_checkpoint(tmp_path))
    ids = random_ids(20)
    last = decoder.forward(ids, last_only=True)
    assert last.shape == (1, tiny_models.VOCAB_SIZE)
    assert_close(last, decoder.forward(ids)[-1:])


def test_a_cache_that_forgets_goes_on_from_a_shared_beginning(tmp_path):
    save("llama", tmp_path)
    decoder = Decoder.load(open_checkpoint(tmp_path))
    ids = random_ids(30)
    cache = Cache(decoder.config, kind="f32")
    decoder.forward(ids, cache)
    cache.truncate(10)
    assert_close(decoder.forward(ids[10:], cache), decoder.forward(ids)[10:])


def test_a_full_context_is_an_error(tmp_path):
    save("llama", tmp_path)
    decoder = Decoder.load(open_checkpoint(tmp_path))
    cache = Cache(decoder.config, limit=16)
    decoder.forward(random_ids(16), cache)
    with pytest.raises(RoomError, match="16 tokens"):
        decoder.forward(random_ids(1), cache)


def test_tokens_outside_the_vocabulary_are_an_error(tmp_path):
    save("llama", tmp_path)
    decoder = Decoder.load(open_checkpoint(tmp_path))
    with pytest.raises(UsageError, match="vocabulary"):
        decoder.forward(np.array([tiny_models.VOCAB_SIZE]))
    with pytest.raises(UsageError, match="at least one"):
        decoder.forward(np.array([], np.int64))


def test_a_tensor_of_another_shape_is_named(tmp_path):
    save("llama", tmp_path)
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace('"intermediate_size": 256', '"intermediate_size": 128'))
    with pytest.raises(CheckpointError, match="gate_proj"):
        Decoder.load(open_checkpoint(tmp_path))
