"""Sums over tokens: the same in one go, in pieces, and in two halves."""

import numpy as np

from halfpint.solvers.statistics import Kept, Moments, Statistics


def test_moments_of_pieces_add_up_to_those_of_the_whole():
    x = np.random.default_rng(0).standard_normal((50, 8)).astype(np.float32)
    whole, statistics = Moments.empty(8), Statistics.empty(8)
    whole.add(x)
    statistics.halves[0].add(x[:20])
    statistics.halves[1].add(x[20:])
    assert statistics.tokens == whole.tokens == 50
    assert np.allclose(statistics.second(), whole.second, rtol=1e-5)


def test_adding_changes_neither_half():
    statistics = Statistics.empty(2)
    statistics.halves[0].add(np.ones((1, 2), np.float32))
    total = statistics.second()
    total += 1
    assert statistics.halves[0].second.tolist() == [[1, 1], [1, 1]]
    assert not statistics.halves[1].second.any()


def test_a_shift_is_a_weight_s_own_or_made_of_what_inputs_differ_by():
    generator = np.random.default_rng(0)
    difference, weight, shift = (generator.standard_normal((8, 8)).astype(np.float32) for _ in range(3))
    second = np.eye(8, dtype=np.float32)
    assert Moments(second).shift_of(weight) is None
    assert np.array_equal(Moments(second, shift).shift_of(weight), shift)
    made = Moments(second, None, 1, difference).shift_of(weight, np.array([1, 5]))
    assert np.allclose(made, weight[[1, 5]] @ difference, rtol=1e-5)


def test_things_are_kept_until_others_are_asked_for():
    kept = Kept()
    assert [kept.get("course", key, lambda key=key, place=place: (key, place)) for place, key in enumerate("aaba")] == [
        ("a", 0),
        ("a", 0),
        ("b", 2),
        ("a", 3),
    ]
    assert kept.get("moments", "a", lambda: 5) == 5
