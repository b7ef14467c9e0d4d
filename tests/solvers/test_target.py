"""The correction of the target: found where there is one, refused where there is only noise."""

import numpy as np
import pytest

from halfpint.solvers.target import Correction, choose_correction, corrected_weight
from solvers.layers import inputs, statistics, weight

ROWS, COLUMNS = 64, 128


def drifted(noise, tokens=4000):
    """Statistics of a layer that is wished to act like another weight, under noise of the wished outputs."""
    generator = np.random.default_rng(5)
    difference = weight(ROWS, COLUMNS, seed=7) * 0.1
    x = inputs(COLUMNS, tokens)
    scale = np.float32(noise * np.std(x @ difference.T))

    def shift(part):
        return part @ difference.T + scale * generator.standard_normal((len(part), ROWS)).astype(np.float32)

    return difference, statistics(x, shift)


def test_without_noise_the_whole_difference_is_made_up_for():
    difference, told = drifted(noise=0)
    choice = choose_correction(weight(ROWS, COLUMNS), told)
    assert choice.blend > 0.95
    corrected = corrected_weight(weight(ROWS, COLUMNS), told, choice) - weight(ROWS, COLUMNS)
    unseen = inputs(COLUMNS, 1000, seed=3)
    assert np.linalg.norm(unseen @ (corrected - difference).T) < 0.1 * np.linalg.norm(unseen @ difference.T)


@pytest.mark.parametrize("tokens", [200, 4000])
@pytest.mark.parametrize("seed", range(5))
def test_of_pure_noise_nothing_is_taken(tokens, seed):
    generator = np.random.default_rng(seed)

    def noise(part):
        return generator.standard_normal((len(part), ROWS)).astype(np.float32)

    told = statistics(inputs(COLUMNS, tokens), noise)
    assert choose_correction(weight(ROWS, COLUMNS), told).blend < 0.1


def test_few_tokens_are_damped_more_and_taken_less():
    many, few = (choose_correction(weight(ROWS, COLUMNS), drifted(noise=3, tokens=tokens)[1]) for tokens in (8000, 160))
    assert few.damping >= many.damping
    assert few.blend < many.blend


@pytest.mark.parametrize("noise", [0, 1, 5])
def test_what_is_taken_helps_on_text_that_neither_half_has_seen(noise):
    difference, told = drifted(noise, tokens=1000)
    original = weight(ROWS, COLUMNS)
    change = corrected_weight(original, told, choose_correction(weight(ROWS, COLUMNS), told)) - original
    unseen = inputs(COLUMNS, 1000, seed=3)
    left = np.square(unseen @ (difference - change).T).sum()
    assert left < np.square(unseen @ difference.T).sum()


def test_without_shifts_the_weight_is_its_own_target():
    told = statistics(inputs(COLUMNS))
    assert choose_correction(weight(ROWS, COLUMNS), told) == Correction()
    original = weight(ROWS, COLUMNS)
    assert corrected_weight(original, told, choose_correction(weight(ROWS, COLUMNS), told)) is original
