"""Rows of a head see tokens as often as the model is in doubt about them."""

import numpy as np
import pytest

from halfpint.calibration.head_statistics import HeadInput, row_groups

ROWS, COLUMNS = 512, 32


def head_and_inputs(seed=0, drift=0.0):
    """A head whose first and second half of rows are likely in different corners of the input space."""
    generator = np.random.default_rng(seed)
    corners = generator.standard_normal((2, COLUMNS)).astype(np.float32)
    weight = (0.1 * generator.standard_normal((ROWS, COLUMNS))).astype(np.float32)
    weight[: ROWS // 2] += 2 * corners[0]
    weight[ROWS // 2 :] += 2 * corners[1]
    inputs = []
    for half in (0, 1, 0):
        x = corners[generator.integers(0, 2, 200)] + 0.3 * generator.standard_normal((200, COLUMNS)).astype(np.float32)
        x = x.astype(np.float32)
        other = x if not drift else (x + drift * generator.standard_normal(x.shape)).astype(np.float32)
        inputs.append(HeadInput(half, x, other))
    return weight, inputs


def test_every_row_is_in_one_group():
    groups = row_groups(*head_and_inputs())
    assert len(groups) > 1
    assert sorted(np.concatenate([group.rows for group in groups]).tolist()) == list(range(ROWS))


def test_rows_that_are_likely_after_alike_texts_stand_together():
    groups = row_groups(*head_and_inputs())
    sides = [set((group.rows < ROWS // 2).tolist()) for group in groups]
    assert all(len(side) == 1 for side in sides)


def test_groups_weigh_tokens_by_the_doubt_about_their_rows():
    weight, inputs = head_and_inputs()
    groups = row_groups(weight, inputs)
    group = groups[0]
    raw, plain = np.zeros((COLUMNS, COLUMNS)), np.zeros((COLUMNS, COLUMNS))
    weights = []
    for part in (part for part in inputs if part.half == 0):
        logits = part.original.astype(np.float64) @ weight.T.astype(np.float64)
        exponentials = np.exp(logits - logits.max(1, keepdims=True))
        p = exponentials / exponentials.sum(1, keepdims=True)
        w = (p * (1 - p))[:, group.rows].sum(1)
        raw += (part.original * w[:, None]).T @ part.original
        plain += part.original.T @ part.original
        weights.append(w)
    w = np.concatenate(weights)
    own = w.sum() ** 2 / (w**2).sum()
    share = own / (own + COLUMNS)
    expected = 400 * COLUMNS * (share * raw / np.trace(raw) + (1 - share) * plain / np.trace(plain))
    assert np.allclose(group.statistics.halves[0].second, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


def test_one_stream_has_no_shift_and_two_have_that_of_the_rows():
    assert all(half.shift is None for group in row_groups(*head_and_inputs()) for half in group.statistics.halves)
    weight, inputs = head_and_inputs(drift=0.1)
    for group in row_groups(weight, inputs):
        for half in group.statistics.halves:
            assert half.shift.shape == (len(group.rows), COLUMNS)
            assert half.shift.any()


@pytest.mark.parametrize("rows", [8, 200])
def test_a_small_vocabulary_is_one_group(rows):
    weight, inputs = head_and_inputs()
    (group,) = row_groups(weight[:rows], inputs)
    assert group.rows.tolist() == list(range(rows))
