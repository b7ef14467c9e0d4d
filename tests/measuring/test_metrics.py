"""The metrics against their definitions, and their errors against the spread of repeated draws."""

import math

import numpy as np
import pytest

from halfpint.measuring.metrics import Tally, clustered_mean, log_softmax, score


def random_logits(seed, tokens=40, vocabulary=97, scale=3.0):
    return (np.random.default_rng(seed).standard_normal((tokens, vocabulary)) * scale).astype(np.float32)


def test_identical_logits_have_a_kl_of_exactly_zero_and_agree():
    logits = random_logits(0)
    scores = score(logits, logits.copy(), np.zeros(40, dtype=np.int64))
    assert (scores.kl == 0).all()
    assert scores.agrees.all()
    assert (scores.reference_loss == scores.candidate_loss).all()


def test_kl_and_loss_are_those_of_the_definition():
    reference, candidate = random_logits(1), random_logits(2)
    targets = np.random.default_rng(3).integers(0, 97, 40)
    scores = score(reference, candidate, targets)
    for row in range(40):
        p = np.exp(reference[row].astype(np.float64))
        q = np.exp(candidate[row].astype(np.float64))
        p, q = p / p.sum(), q / q.sum()
        assert scores.kl[row] == pytest.approx(float((p * np.log(p / q)).sum()), rel=1e-9)
        assert scores.candidate_loss[row] == pytest.approx(-math.log(q[targets[row]]), rel=1e-9)
        assert scores.agrees[row] == (p.argmax() == q.argmax())


@pytest.mark.parametrize("shift", [0.0, 1e4, -1e4])
def test_softmax_survives_large_logits(shift):
    logits = random_logits(4) + np.float32(shift)
    assert np.exp(log_softmax(logits)).sum(axis=1) == pytest.approx(np.ones(40), rel=1e-9)


def test_kl_is_never_negative():
    base = random_logits(5)
    nearly = base + np.float32(1e-7)
    assert (score(base, nearly, np.zeros(40, dtype=np.int64)).kl >= 0).all()


def test_errors_of_correlated_tokens_hold_the_truth_as_often_as_they_say():
    """Tokens of a window share a common part: the naive error would be four times too small."""
    generator = np.random.default_rng(6)
    windows = np.repeat(np.arange(60), 40)
    inside = 0
    for _ in range(400):
        common = generator.standard_normal(60)[windows]
        values = 1.0 + common + 0.5 * generator.standard_normal(2400)
        estimate = clustered_mean(values, windows)
        inside += abs(estimate.mean - 1.0) < 1.96 * estimate.stderr
    assert 0.91 <= inside / 400 <= 0.98


def test_one_window_has_no_error_bar():
    assert math.isnan(clustered_mean(np.arange(5.0), np.zeros(5, dtype=np.int64)).stderr)


def test_a_model_as_wrong_as_can_be_is_infinitely_perplexed():
    right, wrong = np.full((40, 50), -1e4, np.float32), np.full((40, 50), -1e4, np.float32)
    right[:, 0], wrong[:, 1] = 1e4, 1e4
    tally = Tally()
    tally.add(0, "a", score(right, wrong, np.zeros(40, dtype=np.int64)))
    tally.add(1, "a", score(right, wrong, np.zeros(40, dtype=np.int64)))
    found = tally.quality()
    assert (found.reference_perplexity, found.perplexity, found.perplexity_ratio) == (1, math.inf, math.inf)
    assert found.kl_mean == pytest.approx(2e4)


def test_a_tally_gives_the_same_by_parts_as_at_once():
    reference, candidate = random_logits(7), random_logits(8)
    targets = np.arange(40, dtype=np.int64)
    whole, parts = Tally(), Tally()
    whole.add(0, "a", score(reference[:20], candidate[:20], targets[:20]))
    whole.add(1, "b", score(reference[20:], candidate[20:], targets[20:]))
    for start in range(0, 40, 5):
        piece = slice(start, start + 5)
        parts.add(start // 20, "ab"[start // 20], score(reference[piece], candidate[piece], targets[piece]))
    assert parts.quality() == whole.quality()
    assert parts.quality("b").kl_mean == whole.quality("b").kl_mean
    assert whole.quality().tokens == 40
    assert whole.quality().perplexity_ratio == pytest.approx(
        whole.quality().perplexity / whole.quality().reference_perplexity
    )
