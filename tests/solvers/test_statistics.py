"""Sums over tokens: the same in one go, in pieces, and in two halves."""

import numpy as np

from halfpint.solvers.statistics import Moments, Statistics


def test_moments_of_pieces_add_up_to_those_of_the_whole():
    x = np.random.default_rng(0).standard_normal((50, 8)).astype(np.float32)
    whole, statistics = Moments.empty(8), Statistics.empty(8)
    whole.add(x)
    statistics.halves[0].add(x[:20])
    statistics.halves[1].add(x[20:])
    total = statistics.total()
    assert statistics.tokens == total.tokens == whole.tokens == 50
    assert np.allclose(total.second, whole.second, rtol=1e-5)


def test_adding_changes_neither_side():
    first, second = Moments.empty(2), Moments.empty(2)
    first.add(np.ones((1, 2), np.float32))
    total = first + second
    total.second += 1
    assert first.second.tolist() == [[1, 1], [1, 1]]
    assert not second.second.any()
