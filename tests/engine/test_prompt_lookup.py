"""Drafting never changes a text, and guesses what stood there before."""

from __future__ import annotations

import numpy as np
import pytest

from halfpint.checkpoints import open_checkpoint
from halfpint.engine import Cache, Decoder, Generation, GenerationOptions, SamplingOptions
from halfpint.engine.prompt_lookup import Drafter
from halfpint.errors import UsageError
from halfpint.formats import by_name
from halfpint.kernels import encode
from halfpint.kernels.integer_linear import FEW_TOKENS
from halfpint.models.opening import demo_folder
from halfpint.tokenization import load_tokenizer

WORDS = "The old house stood on a hill. The old house stood on a hill. The old house"
SAMPLINGS = {
    "greedy": SamplingOptions(),
    "cold": SamplingOptions(temperature=0.02, seed=3),
    "warm": SamplingOptions(temperature=1.0, top_k=20, seed=4),
    "penalized": SamplingOptions(repetition_penalty=1.3),
}


def in_codes(weight):
    return encode(weight, by_name("q4_k")) if weight.ndim == 2 else weight


@pytest.fixture(scope="module")
def demo():
    """Decoders of the embedded model, which likes to say things twice, and a prompt."""
    checkpoint = open_checkpoint(demo_folder())
    decoders = {
        kind: Decoder.load(checkpoint, lambda _, weight: in_codes(weight), activations=kind)
        for kind in ("float32", "int8")
    }
    return decoders, load_tokenizer(checkpoint).encode(WORDS)


@pytest.mark.parametrize(("activations", "kind"), [("float32", "f32"), ("int8", "f16"), ("int8", "q8")])
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_the_text_is_that_without_drafting(activations, kind, sampling, demo):
    decoder, prompt = demo[0][activations], demo[1]
    texts, records = [], []
    for most in (0, 1, 20):
        options = GenerationOptions(max_tokens=40, sampling=SAMPLINGS[sampling], draft_tokens=most)
        cache = Cache(decoder.config, kind=kind)
        generation = Generation(decoder, prompt, options, cache)
        texts.append(list(generation))
        records.append(generation.record)
        assert cache.length == len(prompt) + 39
    assert texts[1] == texts[0]
    assert texts[2] == texts[0]
    assert records[0].drafted_tokens == 0
    assert all(record.drafted_tokens >= record.accepted_tokens for record in records[1:])
    assert sampling != "greedy" or records[2].accepted_tokens > 0


@pytest.mark.parametrize(("stop", "limit"), [(True, 0), (False, 45)])
def test_a_text_with_guesses_ends_where_it_would(stop, limit, demo):
    decoder, prompt = demo[0]["int8"], demo[1]
    tokens = list(Generation(decoder, prompt, GenerationOptions(max_tokens=20)))
    stops = frozenset({tokens[-1]}) if stop else frozenset()
    records, texts = [], []
    for most in (0, 4):
        options = GenerationOptions(max_tokens=50, stop_ids=stops, draft_tokens=most)
        generation = Generation(decoder, prompt, options, Cache(decoder.config, limit))
        texts.append(list(generation))
        records.append(generation.record)
    assert texts[0] == texts[1]
    assert records[0].finish == records[1].finish
    assert records[1].finish == ("stop" if stop else "context")


def test_what_followed_before_is_guessed():
    drafter = Drafter([1, 2, 3, 4, 5, 6, 9, 2, 3], 3)
    assert drafter.guess(10) == [4, 5, 6]
    assert drafter.guess(2) == [4, 5]
    assert Drafter([8, 1, 2, 3, 1, 2, 3, 1, 2], 7).guess(10) == [3, 1, 2, 3, 1, 2, 3]
    drafter.add(7)
    assert drafter.guess(10) == []
    assert Drafter([1, 1, 1], 0).guess(10) == []


def test_the_longest_match_counts_and_the_last_of_equals():
    assert Drafter([1, 2, 3, 8, 9, 2, 3, 7, 1, 2, 3], 1).guess(5) == [8]
    assert Drafter([2, 3, 8, 2, 3, 7, 2, 3], 1).guess(5) == [7]


def test_wrong_guesses_make_it_wait_and_right_ones_bold():
    drafter = Drafter([1, 2] * 10, 6)
    assert len(drafter.guess(10)) == 6
    drafter.judge(6, 0)
    assert drafter.guess(10) == []
    drafter.add(1)
    assert len(drafter.guess(10)) == 1
    drafter.judge(1, 1)
    assert len(drafter.guess(10)) == 3


def test_a_negative_number_of_guesses_is_an_error():
    with pytest.raises(UsageError, match="draft_tokens"):
        GenerationOptions(draft_tokens=-1)


def test_several_rows_give_the_bits_of_one_after_the_other(demo):
    decoders, prompt = demo
    for decoder in decoders.values():
        together, alone = Cache(decoder.config), Cache(decoder.config)
        rows = decoder.forward(np.array(prompt[:FEW_TOKENS]), together)
        singles = [decoder.forward(np.array([token]), alone)[0] for token in prompt[:FEW_TOKENS]]
        assert np.array_equal(rows, np.stack(singles))
