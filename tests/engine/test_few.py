"""A block in one native call gives the bits of its steps one by one, for every family."""

from __future__ import annotations

import numpy as np
import pytest

import tiny_models
from halfpint.checkpoints import open_checkpoint
from halfpint.engine.block import Block
from halfpint.engine.cache import Cache, Texts
from halfpint.engine.decoder import Decoder
from halfpint.engine.steps import Here, run
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


def stepwise(block: Block, hidden: np.ndarray, texts: Texts) -> np.ndarray:
    return run(block.steps(Here(hidden), texts=texts))


def passed(decoder: Decoder, counts: tuple[int, ...], forward) -> list[np.ndarray]:
    """Hidden states after every block, for texts with something in their caches."""
    caches = [Cache(decoder.config) for _ in counts]
    for seed, cache in enumerate(caches):
        decoder.forward(ids(11 + 7 * seed, seed), cache)
    texts = Texts(caches, counts)
    found = [decoder.ends.embed(ids(sum(counts), 99)[np.newaxis])]
    for block in decoder.blocks:
        found.append(forward(block, found[-1], texts))
    return found


@pytest.mark.parametrize("counts", COUNTS, ids=str)
def test_one_call_gives_the_bits_of_the_steps(decoder, counts):
    assert all(block.few is not None for block in decoder.blocks)
    at_once = passed(decoder, counts, Block.forward)
    for found, expected in zip(at_once, passed(decoder, counts, stepwise), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_what_goes_in_is_not_changed(decoder):
    hidden = decoder.ends.embed(ids(2, 0)[np.newaxis])
    before = hidden.copy()
    decoder.blocks[0].forward(hidden, Texts([Cache(decoder.config)], [2]))
    np.testing.assert_array_equal(hidden, before)


def test_blocks_with_other_weights_go_step_by_step(tmp_path):
    tiny_models.save_tiny("llama", tmp_path)
    decoder = Decoder.load(open_checkpoint(tmp_path), activations="int8")
    assert all(block.few is None for block in decoder.blocks)


def test_shapes_are_checked_where_native_code_begins():
    weight = IntegerLinear(encode(np.ones((64, 64), np.float32), by_name("q8_0"))).handle
    pairs = ([(weight, None)] * 3, [(weight, None)], [(weight, None)] * 2, [(weight, None)])
    rows = np.zeros((2, 64), np.float32)

    def block(sizes=(64, 64, 2, 2, 32), norms=None, projections=pairs):
        return _native.DecoderBlock(sizes, (1e-5, 1.0, 0.0), 0, 0, norms or {}, projections)

    texts = [(_native.KeyValues("f16", 2, 32), 2)]
    block().forward(rows, texts, None, None)
    for wrong, message in (
        ({"sizes": (64, 32, 2, 2, 32)}, "rows of their output"),
        ({"norms": {"query": rows[0, :48]}}, "divide its input"),
        ({"projections": (*pairs[:3], [])}, "one weight"),
    ):
        with pytest.raises(ValueError, match=message):
            block(**wrong)
    for message, *arguments in (
        ("hidden states are", rows[:, :32].copy(), texts, None, None),
        ("heads are those", rows, [(_native.KeyValues("f16", 1, 32), 2)], None, None),
        ("texts have all tokens", rows, [(texts[0][0], 1)], None, None),
        ("an angle per token", rows, texts, rows[:1, :16].copy(), rows[:1, :16].copy()),
        ("no more is rotated", rows, texts, rows[:, :32].copy(), rows[:, :32].copy()),
    ):
        with pytest.raises(ValueError, match=message):
            block().forward(*arguments)
