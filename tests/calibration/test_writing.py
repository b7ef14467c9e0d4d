"""Text that a model writes: seeded, from its own distribution, in windows of one length."""

from __future__ import annotations

import numpy as np
import pytest

import tiny_models
from halfpint.calibration.text import TextSource
from halfpint.calibration.writing import SOURCE_NAME, WritingOptions, write_windows
from halfpint.checkpoints import open_checkpoint
from halfpint.engine.decoder import Decoder
from halfpint.errors import UsageError


class Characters:
    """A tokenizer that makes a token of every character, and puts `before` in front of every sequence."""

    def __init__(self, before):
        self.before = before

    def encode(self, content, add_special=True):
        ids = [ord(character) for character in content]
        return [*self.before, *ids] if add_special else ids


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tiny_models.save_tiny("llama", folder)
    return Decoder.load(open_checkpoint(folder))


OPENINGS = [TextSource("a", "hello there"), TextSource("b", "good day")]


@pytest.mark.parametrize(
    ("before", "opening_tokens", "expected"),
    [
        ([0], 0, ["", "", ""]),
        ([], 0, ["h", "g", "h"]),
        ([0], 4, ["hell", "good", "hell"]),
    ],
)
def test_windows_begin_like_the_model_s_texts_or_like_the_openings(decoder, before, opening_tokens, expected):
    options = WritingOptions(windows=3, tokens_per_window=12, opening_tokens=opening_tokens)
    windows = write_windows(decoder, Characters(before), OPENINGS, options)
    assert [len(window.token_ids) for window in windows] == [12] * 3
    assert {window.source for window in windows} == {SOURCE_NAME}
    for window, opening in zip(windows, expected, strict=True):
        beginning = [*before, *map(ord, opening)]
        assert list(window.token_ids[: len(beginning)]) == beginning


def test_the_same_seed_writes_the_same_and_every_window_something_else(decoder):
    def written(seed):
        return write_windows(decoder, Characters([0]), [], WritingOptions(windows=3, tokens_per_window=10, seed=seed))

    assert written(5) == written(5)
    assert len({window.token_ids for window in written(5)}) == 3
    assert written(5) != written(50)


def test_what_is_written_is_as_likely_as_the_model_says(decoder):
    options = WritingOptions(windows=300, tokens_per_window=2)
    first = [window.token_ids[1] for window in write_windows(decoder, Characters([0]), [], options)]
    logits = decoder.forward(np.array([0]))[0].astype(np.float64)
    probabilities = np.exp(logits - logits.max())
    probabilities /= probabilities.sum()
    likeliest = np.argsort(-probabilities)[:10]
    share, expected = np.isin(first, likeliest).mean(), probabilities[likeliest].sum()
    assert abs(share - expected) < 4 * (expected * (1 - expected) / 300) ** 0.5


def test_without_anything_to_begin_with_it_is_refused(decoder):
    with pytest.raises(UsageError, match="begin with"):
        write_windows(decoder, Characters([]), [], WritingOptions())


@pytest.mark.parametrize("bad", [{"windows": 0}, {"tokens_per_window": 1}, {"opening_tokens": 255}])
def test_options_without_room_to_write_are_refused(bad):
    with pytest.raises(UsageError, match="room"):
        WritingOptions(**bad)
