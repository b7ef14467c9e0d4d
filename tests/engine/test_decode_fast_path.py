"""All blocks in one native call give the bits of their steps one by one, for every family."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import tiny_models
from halfpint.checkpoints import open_checkpoint
from halfpint.engine.cache import Cache, Texts
from halfpint.engine.decode_fast_path import _NORMS, _PROJECTIONS, few_tokens, supports
from halfpint.engine.decoder import Decoder
from halfpint.families import ModelConfig, Role
from halfpint.formats import by_name
from halfpint.kernels import _native, encode
from halfpint.kernels.integer_linear import FEW_TOKENS, IntegerLinear

CASES = {
    **{family: {} for family in tiny_models.FAMILIES if "moe" not in family and family != "mixtral"},
    "llama with biases": {"attention_bias": True, "mlp_bias": True},
    "mistral with a window": {"sliding_window": 9},
    "llama with one key head": {"num_key_value_heads": 1},
}
COUNTS = [(1,), (5,), (FEW_TOKENS,), (1, 1, 1), (2, 1, 4)]


def packed(_name: str, weight):
    """Matrices in a few bits, vectors as they are."""
    return encode(weight, by_name("q4_1")) if weight.ndim == 2 else weight


@pytest.fixture(scope="module", params=CASES)
def decoder(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tiny_models.save_tiny(request.param.split(" ")[0], folder, **CASES[request.param])
    return Decoder.load(open_checkpoint(folder), packed, activations="int8")


def ids(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, tiny_models.VOCAB_SIZE, count)


def stepwise(decoder: Decoder, hidden: np.ndarray, texts: Texts) -> np.ndarray:
    for block in decoder.blocks:
        hidden = block.forward(hidden, texts)
    return hidden


def at_once(decoder: Decoder, hidden: np.ndarray, texts: Texts) -> np.ndarray:
    assert decoder.few is not None
    return decoder.few.forward(hidden, texts)


def passed(decoder: Decoder, counts: tuple[int, ...], forward) -> tuple[np.ndarray, np.ndarray]:
    """Hidden states and last keys, for texts with something in their caches."""
    caches = [Cache(decoder.config) for _ in counts]
    for seed, cache in enumerate(caches):
        decoder.forward(ids(11 + 7 * seed, seed), cache)
    hidden = decoder.ends.embed(ids(sum(counts), 99)[np.newaxis])
    before = hidden.copy()
    found = forward(decoder, hidden, Texts(caches, counts))
    np.testing.assert_array_equal(hidden, before)
    return found, np.concatenate([cache.layers[-1].read()[0] for cache in caches], axis=1)


@pytest.mark.parametrize("counts", COUNTS, ids=str)
def test_one_call_gives_the_bits_of_the_steps(decoder, counts):
    for found, expected in zip(passed(decoder, counts, at_once), passed(decoder, counts, stepwise), strict=True):
        np.testing.assert_array_equal(found, expected)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Extended(ModelConfig):
    """A configuration with a word that the native blocks have never heard."""

    residual_multiplier: float = 1.0


@pytest.mark.parametrize(("value", "supported"), [(1.0, True), (0.5, False)])
def test_a_new_word_of_the_configuration_goes_step_by_step(decoder, value, supported):
    values = {field.name: getattr(decoder.config, field.name) for field in dataclasses.fields(decoder.config)}
    config = Extended(**values, residual_multiplier=value)
    assert (few_tokens(config, [block.parts for block in decoder.blocks]) is not None) == supported


@pytest.mark.parametrize("role", sorted(set(Role)))
def test_a_part_without_a_place_goes_step_by_step(decoder, role):
    """Norms and projections of any role that no block of these families has."""
    parts = [block.parts for block in decoder.blocks]
    norm, projection = next(iter(parts[0].norms.values())), next(iter(parts[0].projections.values()))
    known = role in _NORMS or role in _PROJECTIONS
    more = (
        dataclasses.replace(parts[0], norms={**parts[0].norms, role: norm}),
        dataclasses.replace(parts[0], projections={**parts[0].projections, role: projection}),
    )
    assert known or not any(supports(decoder.config, [first, *parts[1:]]) for first in more)


@pytest.mark.parametrize("activation", ["relu", "gelu", "quick_gelu"])
def test_another_activation_goes_step_by_step(decoder, activation):
    config = dataclasses.replace(decoder.config, activation=activation)
    assert not supports(config, [block.parts for block in decoder.blocks])


def test_other_weights_go_step_by_step(tmp_path):
    tiny_models.save_tiny("llama", tmp_path)
    assert Decoder.load(open_checkpoint(tmp_path), activations="int8").few is None


def test_experts_go_step_by_step(tmp_path):
    tiny_models.save_tiny("qwen3_moe", tmp_path)
    assert Decoder.load(open_checkpoint(tmp_path), packed, activations="int8").few is None


def test_shapes_are_checked_where_native_code_begins():
    weight = IntegerLinear(encode(np.ones((64, 64), np.float32), by_name("q8_0"))).handle
    pairs = ([(weight, None)] * 3, [(weight, None)], [(weight, None)] * 2, [(weight, None)])
    rows = np.zeros((2, 64), np.float32)

    def block(sizes=(64, 64, 2, 2, 32), norms=None, projections=pairs):
        return _native.DecoderBlock(sizes, (1e-5, 1.0, 0.0), 0, 0, norms or {}, projections)

    held = _native.KeyValues("f16", 2, 32)
    blocks = _native.DecoderBlocks([block()], [0])
    angles = [(rows[:, :16].copy(), rows[:, :16].copy())]
    blocks.forward(rows, [([held], 2)], angles)
    for wrong, message in (
        ({"sizes": (64, 32, 2, 2, 32)}, "rows of their output"),
        ({"norms": {"query": rows[0, :48]}}, "divide its input"),
        ({"projections": (*pairs[:3], [])}, "one weight"),
    ):
        with pytest.raises(ValueError, match=message):
            block(**wrong)
    for message, *arguments in (
        ("hidden states are", rows[:, :32].copy(), [([held], 2)], angles),
        ("heads are those", rows, [([_native.KeyValues("f16", 1, 32)], 2)], angles),
        ("texts have all tokens", rows, [([held], 1)], angles),
        ("for every block", rows, [([held, held], 2)], angles),
        ("of every kind", rows, [([held], 2)], []),
        ("an angle per token", rows, [([held], 2)], [(rows[:1, :16].copy(), rows[:1, :16].copy())]),
        ("no more is rotated", rows, [([held], 2)], [(rows[:, :32].copy(), rows[:, :32].copy())]),
    ):
        with pytest.raises(ValueError, match=message):
            blocks.forward(*arguments)
