"""Laws of sampling."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from halfpint.engine.sampling import SamplingOptions, choose, keep_min_p, keep_top_k, keep_top_p, penalize
from halfpint.errors import UsageError

LOGITS = np.array([1.0, 3.0, -2.0, 2.5, 0.0, 2.9], np.float32)


def draws(options: SamplingOptions, count: int = 2000, logits: np.ndarray = LOGITS) -> np.ndarray:
    generator = np.random.default_rng(options.seed)
    return np.bincount([choose(logits, options, generator) for _ in range(count)], minlength=logits.size)


def test_at_temperature_zero_the_most_probable_token_comes_and_nothing_is_drawn():
    generator = np.random.default_rng(0)
    before = generator.bit_generator.state
    assert choose(LOGITS, SamplingOptions(), generator) == 1
    assert generator.bit_generator.state == before


def test_equal_logits_give_the_smaller_id():
    assert choose(np.array([1, 2, 2], np.float32), SamplingOptions(), np.random.default_rng(0)) == 1


def test_draws_have_the_frequencies_of_the_softmax():
    counts = draws(SamplingOptions(temperature=0.7), 20000)
    expected = np.exp(LOGITS / 0.7)
    expected /= expected.sum()
    # Five standard deviations of a binomial count.
    assert (np.abs(counts - 20000 * expected) <= 5 * np.sqrt(20000 * expected) + 1).all()


def test_the_same_seed_gives_the_same_tokens():
    options = SamplingOptions(temperature=1.0, seed=7)
    assert np.array_equal(draws(options), draws(options))


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        (SamplingOptions(temperature=1.0, top_k=2), {1, 5}),
        (SamplingOptions(temperature=1.0, top_k=1), {1}),
        (SamplingOptions(temperature=1.0, top_p=0.5), {1, 5}),
        (SamplingOptions(temperature=1.0, top_p=1e-6), {1}),
        (SamplingOptions(temperature=1.0, min_p=0.5), {1, 3, 5}),
        (SamplingOptions(temperature=1.0, min_p=1.0), {1}),
        (SamplingOptions(temperature=1e-30), {1}),
    ],
)
def test_cut_off_tokens_never_come(options, kept):
    assert set(np.flatnonzero(draws(options))) == kept


def test_the_repetition_penalty_lowers_tokens_of_the_text_whatever_their_sign():
    penalized = penalize(LOGITS, [1, 2, 1], 2.0)
    assert penalized[1] == 1.5
    assert penalized[2] == -4.0
    assert np.array_equal(np.delete(penalized, [1, 2]), np.delete(LOGITS, [1, 2]))
    assert choose(LOGITS, SamplingOptions(repetition_penalty=2.0), np.random.default_rng(0), [1]) == 5


@given(
    st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=50),
    st.integers(0, 60),
    st.floats(0.01, 1),
    st.floats(0, 1),
)
def test_cuts_keep_the_most_probable_token_and_what_they_keep_is_unchanged(values, top_k, top_p, min_p):
    logits = np.array(values, np.float32)
    for cut in (keep_top_k(logits, top_k), keep_top_p(logits, top_p), keep_min_p(logits, min_p)):
        kept = np.isfinite(cut)
        assert kept[np.argmax(logits)]
        assert np.array_equal(cut[kept], logits[kept])
        assert not kept.all() or np.array_equal(cut, logits)
    combined = keep_min_p(keep_top_p(keep_top_k(logits, top_k), top_p), min_p)
    options = SamplingOptions(temperature=1.0, top_k=top_k, top_p=top_p, min_p=min_p)
    assert np.isfinite(combined[choose(logits, options, np.random.default_rng(0))])


@pytest.mark.parametrize("temperature", [1e-6, 1e-40, 5e-324])
def test_the_smallest_temperatures_take_the_most_probable_token(temperature):
    options = SamplingOptions(temperature=temperature, top_k=4, top_p=0.9, min_p=0.1)
    assert choose(LOGITS, options, np.random.default_rng(0)) == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -1.0),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("min_p", 2.0),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", 1e38),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
    ],
)
def test_impossible_options_are_named(name, value):
    with pytest.raises(UsageError, match=name):
        SamplingOptions(**{name: value})
