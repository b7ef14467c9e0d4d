"""Error bars against the truth: samples of a long text, correlated and heavy-tailed as KL is, must hold its mean."""

import math
from itertools import pairwise

import numpy as np
import pytest
from scipy import stats

from halfpint.measuring.metrics import clustered_mean, small_sample_factor

DRAWS = 400
TOKENS = 64


def long_text(rng, windows, neighbours):
    """KL of every token, [windows, tokens]: a lognormal tail, a level of each window, and levels that drift."""
    level = np.empty(windows)
    level[0] = rng.standard_normal()
    for index in range(1, windows):
        level[index] = neighbours * level[index - 1] + math.sqrt(1 - neighbours**2) * rng.standard_normal()
    return np.exp(0.35 * level[:, None] + 1.5 * rng.standard_normal((windows, TOKENS)))


def scattered(rng, text, count):
    return text[np.sort(rng.choice(len(text), count, replace=False))]


def contiguous(rng, text, count):
    start = rng.integers(len(text) - count + 1)
    return text[start : start + count]


def coverage(count, neighbours, choose, factor=1.0):
    """How often the interval from `count` windows holds the mean of ten times as many."""
    rng = np.random.default_rng(11)
    held = 0
    for _ in range(DRAWS):
        text = long_text(rng, 10 * count, neighbours)
        sample = choose(rng, text, count)
        estimate = clustered_mean(sample.reshape(-1), np.repeat(np.arange(count), TOKENS))
        held += abs(estimate.mean - text.mean()) <= 1.96 * estimate.stderr * factor
    return held / DRAWS


@pytest.mark.parametrize("choose", [scattered, contiguous])
@pytest.mark.parametrize("neighbours", [0.0, 0.2])
@pytest.mark.parametrize("count", [4, 8, 16, 32])
def test_intervals_hold_the_value_from_ten_times_as_much_text(count, neighbours, choose):
    assert 0.90 <= coverage(count, neighbours, choose) <= 0.99


def test_without_the_factor_intervals_of_few_windows_would_not():
    """The test above can fail: this is what it was written for."""
    assert coverage(4, 0.2, contiguous, 1 / small_sample_factor(4)) < 0.85


@pytest.mark.parametrize("windows", [2, 3, 4, 7, 16, 100, 10_000])
def test_the_factor_is_that_of_students_t(windows):
    quantile = stats.t.ppf(0.975, max(1.0, windows / 2))
    assert small_sample_factor(windows) == pytest.approx(quantile / stats.norm.ppf(0.975), rel=1e-10)


def test_the_factor_falls_to_one():
    factors = [small_sample_factor(windows) for windows in (2, 4, 8, 16, 32, 64, 1_000, 1_000_000)]
    assert all(before > after for before, after in pairwise(factors))
    assert factors[-1] == pytest.approx(1.0, abs=1e-5)
