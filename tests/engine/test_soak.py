"""The soak sees memory that grows and tokens that are wrong."""

import argparse
from contextlib import closing

import numpy as np
import pytest

import halfpint
import soak
from halfpint.engine.decoder import Decoder
from halfpint.kernels import _native
from soak import Bounds, Tally

BOUNDS = Bounds(texts=3, prompt=20, tokens=6)


@pytest.fixture(scope="module")
def decoders():
    with closing(halfpint.open_model("demo")) as checkpoint:
        yield Decoder.load(checkpoint, activations="int8"), Decoder.load(checkpoint)


def test_growth_is_from_the_second_quarter_to_the_last():
    steady = Tally(memory=[(second, 100 if second >= 25 else 7) for second in range(100)])
    assert steady.growth(100.0) == 0
    leaking = Tally(memory=[(second, 1000 + second) for second in range(100)])
    assert leaking.growth(100.0) == 50
    assert np.isnan(Tally().growth(1.0))


def test_a_round_is_within_its_bounds_and_of_many_shapes(decoders):
    generator = np.random.default_rng(0)
    counts, lengths = set(), set()
    for _ in range(6):
        drawn = soak.texts_of_a_round(decoders[0], BOUNDS, generator)
        counts.add(len(drawn))
        for prompt, *text in drawn:
            lengths.add(prompt)
            assert 1 <= prompt <= BOUNDS.prompt
            assert 1 <= len(text) - prompt <= BOUNDS.tokens
    assert len(counts) > 1
    assert len(lengths) > 3


def test_the_reference_agrees_with_its_own_tokens_and_with_no_others(decoders):
    _, reference = decoders
    text = [5, 17, 300]
    for _ in range(4):
        text.append(int(reference.forward(np.array(text))[-1].argmax()))
    before = _native.active_isa()
    assert soak.gaps(reference, text, 3).max() < 1e-3
    assert _native.active_isa() == before
    wrong = [*text[:4], (text[4] + 1) % reference.config.vocab_size, *text[5:]]
    assert soak.gaps(reference, wrong, 3)[1] > soak.TOLERANCE


def test_a_short_soak(decoders):
    arguments = argparse.Namespace(minutes=0.02, check_every=1, seed=1)
    tally = soak.soak(*decoders, BOUNDS, arguments)
    assert tally.rounds == len(tally.memory) > 0
    assert tally.checked > 0
    assert tally.tokens >= tally.rounds
    assert tally.wrong == 0
