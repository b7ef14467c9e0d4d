"""Native attention is that of the NumPy reference, for any number of threads, tokens at a time, and instruction set."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from halfpint.engine.attention import attend
from halfpint.errors import UsageError
from halfpint.kernels import _native
from halfpint.kernels.key_values import CACHE_KINDS, KeyValues
from instruction_sets import ISAS

SHAPES = {  # heads, kv_heads, head_dim
    "all heads": (4, 4, 64),
    "groups of 8": (16, 2, 64),
    "groups of 3": (6, 2, 128),
    "one key head": (5, 1, 80),
    "odd head": (4, 2, 24),
    "wide head": (2, 1, 256),
}
VIEWS = {"plain": (0, 0.0), "window": (37, 0.0), "narrow window": (1, 0.0), "cap": (0, 3.0), "both": (70, 20.0)}
CASES = [(shape, "plain") for shape in SHAPES] + [("groups of 8", view) for view in VIEWS if view != "plain"]


def text(length: int, shape: tuple[int, int, int], seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Queries, keys and values of a text; some dimensions of the keys stand out."""
    heads, kv_heads, head_dim = shape
    random = np.random.default_rng(seed)
    queries = random.standard_normal((length, heads * head_dim), np.float32)
    keys = random.standard_normal((length, kv_heads * head_dim), np.float32)
    keys[:, :: head_dim // 3] *= 4
    return queries, keys, random.standard_normal((length, kv_heads * head_dim), np.float32)


def filled(kind: str, shape: tuple[int, int, int], keys: np.ndarray, values: np.ndarray) -> KeyValues:
    held = KeyValues(kind, *shape[1:])
    held.append(keys, values)
    return held


def expected(held: KeyValues, queries: np.ndarray, shape: tuple[int, int, int], **view) -> np.ndarray:
    """By the reference, over the keys and values as they are held."""
    keys, values = held.read()
    split = queries.reshape(1, len(queries), shape[0], shape[2])
    return attend(split, keys[np.newaxis], values[np.newaxis], **view)[0]


@pytest.mark.parametrize("kind", CACHE_KINDS)
@pytest.mark.parametrize(("shape", "view"), CASES)
def test_attention_is_that_of_the_reference(kind, view, shape, isa):
    window, cap = VIEWS[view]
    options = {"scale": 0.3, "window": window, "cap": cap}
    for length, tokens in ((1, 1), (65, 1), (150, 23), (300, 5)):
        queries, keys, values = text(length, SHAPES[shape])
        held = filled(kind, SHAPES[shape], keys, values)
        mixed = held.attend(queries[-tokens:], **options)
        truth = expected(held, queries[-tokens:], SHAPES[shape], **options)
        # Scores are sums of head_dim products, off by 2**-23 each; exp turns that into a share of the weight.
        largest = np.abs(keys).max() * np.abs(queries).max() * 0.3 * np.sqrt(SHAPES[shape][2])
        bound = (2.0**-23 * np.sqrt(SHAPES[shape][2]) * largest + 2.0**-20) * np.abs(values).max()
        assert np.abs(mixed - truth).max() <= 2 * bound


@pytest.mark.parametrize("kind", CACHE_KINDS)
def test_a_text_of_several_splits_is_attended_to_like_any(kind, isa, threads):
    shape = (4, 2, 32)
    queries, keys, values = text(2100, shape)
    held = filled(kind, shape, keys, values)
    for window, tokens in itertools.product((0, 1500), (1, 12)):
        options = {"scale": 0.2, "window": window, "cap": 0.0}
        truth = expected(held, queries[-tokens:], shape, **options)
        outputs = []
        for count in (1, 2, 5):
            threads(count)
            outputs.append(held.attend(queries[-tokens:], **options))
        assert np.abs(outputs[0] - truth).max() <= 1e-4
        assert all(np.array_equal(outputs[0], other) for other in outputs[1:])


@pytest.mark.parametrize("kind", CACHE_KINDS)
@pytest.mark.parametrize("view", ["plain", "both"])
def test_pieces_of_a_text_give_the_bits_of_the_whole(kind, view, isa, threads):
    shape, (window, cap) = (4, 2, 16), VIEWS[view]
    options = {"scale": 0.125, "window": window, "cap": cap}
    queries, keys, values = text(1100, shape)
    whole = filled(kind, shape, keys, values).attend(queries, **options)
    for count, ends in ((1, (7, 64, 1099, 1100)), (3, (1, 33, 1000, 1100))):
        threads(count)
        held, start = KeyValues(kind, *shape[1:]), 0
        for end in ends:
            held.append(keys[start:end], values[start:end])
            assert np.array_equal(held.attend(queries[start:end], **options), whole[start:end])
            start = end


def test_avx2_and_avx512_give_the_same_bits():
    if "avx512" not in ISAS:
        pytest.skip("this processor has one of them at most")
    shape, options = (8, 2, 64), {"scale": 0.125, "window": 0, "cap": 30.0}
    queries, keys, values = text(400, shape)
    outputs = []
    for name in ("avx2", "avx512"):
        assert _native.force_isa(name)
        outputs.append(filled("f16", shape, keys, values).attend(queries, **options))
    assert np.array_equal(*outputs)


BOUNDS = {"f32": 0.0, "f16": 2.0**-11, "q8": 1.01 * 0.5 / 127}
"""Largest error of an element, as a share of itself (f16) or of the length of its vector (q8: keys are turned)."""


@pytest.mark.parametrize("kind", CACHE_KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_what_is_held_is_close_to_what_came(kind, shape, isa):
    _, kv_heads, head_dim = SHAPES[shape]
    _, keys, values = text(40, SHAPES[shape])
    for came, held in zip((keys, values), filled(kind, SHAPES[shape], keys, values).read(), strict=True):
        heads = came.reshape(40, kv_heads, head_dim).swapaxes(0, 1)
        size = np.linalg.norm(heads, axis=-1, keepdims=True) if kind == "q8" else np.abs(heads)
        reach = np.sqrt(head_dim) if kind == "q8" else 1.0  # a turn spreads the errors of a whole vector
        assert (np.abs(held - heads) <= BOUNDS[kind] * reach * size + 1e-6).all()


@pytest.mark.parametrize("kind", CACHE_KINDS)
def test_a_cut_text_goes_on_as_if_nothing_had_followed(kind):
    shape, options = (4, 2, 64), {"scale": 0.125, "window": 0, "cap": 0.0}
    queries, keys, values = text(300, shape)
    held = filled(kind, shape, keys, values)
    held.truncate(100)
    held.append(keys[100:120], values[100:120])
    assert held.length == 120
    short = filled(kind, shape, keys[:120], values[:120])
    assert np.array_equal(held.attend(queries[100:120], **options), short.attend(queries[100:120], **options))


@pytest.mark.parametrize("kind", CACHE_KINDS)
def test_what_was_saved_can_be_held_again(kind):
    shape, options = (4, 2, 64), {"scale": 0.125, "window": 0, "cap": 0.0}
    queries, keys, values = text(300, shape)
    held, other = filled(kind, shape, keys, values), KeyValues(kind, *shape[1:])
    other.restore(held.save(), held.length)
    assert np.array_equal(other.attend(queries, **options), held.attend(queries, **options))
    with pytest.raises(ValueError, match="stored_bytes"):
        other.restore(held.save()[:-1], held.length)
    with pytest.raises(ValueError, match="stored_bytes"):
        other.restore(held.save(), 1 << 62)


def test_memory_grows_by_pages_and_by_kind():
    sizes = {kind: filled(kind, (4, 2, 64), *text(257, (4, 2, 64))[1:]).nbytes for kind in CACHE_KINDS}
    assert sizes["f32"] == 2 * 2 * 256 * 2 * 64 * 4
    assert sizes["f16"] == sizes["f32"] // 2
    assert sizes["q8"] == sizes["f32"] // 4 + 2 * 2 * 2 * 256 * 2


def test_what_does_not_fit_halves_becomes_the_largest():
    keys = np.full((1, 16), 1e6, np.float32)
    held, _ = filled("f16", (1, 1, 16), keys, -keys).read(), None
    assert held[0].max() == 65504
    assert held[1].min() == -65504


def test_an_unknown_kind_is_an_error():
    with pytest.raises(UsageError, match="f16, q8, f32"):
        KeyValues("q2", 2, 64)


def test_the_reference_has_the_same_bits_in_pieces_side_by_side(threads):
    shape = (16, 2, 64)
    texts = [text(500, shape, seed) for seed in range(3)]
    split = [np.stack(part).reshape(3, 500, -1, 64) for part in zip(*texts, strict=True)]
    found = []
    for count in (1, 2, 3):
        threads(count)
        found.append(attend(split[0], split[1].swapaxes(1, 2), split[2].swapaxes(1, 2), scale=0.3, window=300, cap=0.0))
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], found[2])
    for (queries, keys, values), whole in zip(texts, found[0], strict=True):
        late = expected(filled("f32", shape, keys, values), queries[-1:], shape, scale=0.3, window=300, cap=0.0)
        assert np.abs(late - whole[-1]).max() <= 1e-4 * np.abs(values).max()
