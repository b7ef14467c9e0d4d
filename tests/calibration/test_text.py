"""Bundled texts, the user's own, and the windows they are cut into."""

import json
from itertools import pairwise

import pytest

from halfpint.calibration import text
from halfpint.errors import CheckpointError, UsageError
from halfpint.measuring.held_out_text import held_out


class Characters:
    """A tokenizer that makes a token of every character, and begins every sequence with 1."""

    def encode(self, content, add_special=True):
        ids = [ord(character) + 2 for character in content]
        return [1, *ids] if add_special else ids


@pytest.mark.parametrize("sources", [text.bundled(), held_out()], ids=["calibration", "measuring"])
def test_each_bundled_set_has_six_kinds_and_sixty_thousand_characters(sources):
    assert len(sources) == 6
    assert sum(len(source.text) for source in sources) >= 60_000


def test_the_bundled_sets_never_overlap():
    def sentences(sources):
        return {line.strip() for source in sources for line in source.text.splitlines() if len(line.strip()) > 40}

    assert not sentences(text.bundled()) & sentences(held_out())


def test_windows_keep_order_begin_as_the_model_wants_and_take_from_every_source():
    sources = [text.TextSource("a", "x" * 100), text.TextSource("b", "y" * 50)]
    windows = text.cut(Characters(), sources, tokens_per_window=21, token_limit=10_000)
    assert [window.source for window in windows] == ["a", "b", "a", "b", "a", "a", "a"]
    assert all(window.token_ids[0] == 1 and len(window.token_ids) <= 21 for window in windows)
    assert sum(len(window.token_ids) - 1 for window in windows) == 100 + 40  # b's last 10 are too few


def test_a_limit_shortens_all_sources_alike():
    sources = [text.TextSource(name, name * 1000) for name in "abc"]
    windows = text.cut(Characters(), sources, tokens_per_window=51, token_limit=600)
    counts = [sum(window.source == name for window in windows) for name in "abc"]
    assert sum(counts) == 12
    assert max(counts) - min(counts) <= 1
    assert all(first.source != second.source for first, second in pairwise(windows))


@pytest.mark.parametrize("limit", [30, 200, 1000, 10_000])
def test_what_is_taken_stands_at_even_distances(limit):
    numbers = "".join(chr(1000 + number) * 20 for number in range(100))
    windows = text.cut(Characters(), [text.TextSource("a", numbers)], tokens_per_window=21, token_limit=limit)
    places = [window.token_ids[1] - 1002 for window in windows]
    assert len(places) == min(100, -(-limit // 21))
    gaps = [after - before for before, after in pairwise(places)]
    assert max(gaps, default=1) - min(gaps, default=1) <= 1
    # The beginning and the end are left out alike.
    assert abs(places[0] - (99 - places[-1])) <= 1


@pytest.mark.parametrize("limit", [30, 100, 600, 10_000])
def test_what_is_taken_and_what_is_left_out_is_all_there_is(limit):
    sources = [text.TextSource("a", "x" * 1000), text.TextSource("b", "y" * 190), text.TextSource("c", "z" * 9)]
    selection = text.select(Characters(), sources, tokens_per_window=51, token_limit=limit)
    assert [use.source for use in selection.uses] == ["a", "b", "c"]
    for use, source in zip(selection.uses, sources, strict=True):
        taken = [window for window in selection.windows if window.source == use.source]
        assert use.tokens == sum(len(window.token_ids) for window in taken)
        assert use.tokens - len(taken) + use.tokens_left_out == len(source.text)
    assert sum(use.tokens for use in selection.uses) < limit + 51


def test_what_the_model_wrote_takes_its_turn_like_any_source():
    written = [text.Window("written", (1, *[number] * 20)) for number in range(9)]
    sources = [text.TextSource(name, name * 1000) for name in "ab"]
    selection = text.select(Characters(), sources, tokens_per_window=21, token_limit=12 * 21, written=written)
    counts = [sum(window.source == name for window in selection.windows) for name in ("a", "b", "written")]
    assert counts == [4, 4, 4]
    assert selection.uses[2] == text.SourceUse("written", 4 * 21, 5 * 20)


def test_too_little_text_is_an_error():
    with pytest.raises(UsageError, match="too short"):
        text.cut(Characters(), [text.TextSource("a", "short")], 512, 1000)


def test_files_are_read_as_text_or_as_json_lines(tmp_path):
    (tmp_path / "a.txt").write_text("hello")
    lines = [{"messages": [{"role": "user", "content": "hi"}]}, {"text": "plain"}]
    (tmp_path / "b.jsonl").write_text("\n".join(json.dumps(line) for line in lines) + "\n\n")
    sources = text.read_files([tmp_path / "a.txt", tmp_path / "b.jsonl"])
    assert [source.text for source in sources] == ["hello", "user: hi\n\nplain"]


@pytest.mark.parametrize(
    ("name", "content", "error", "says"),
    [
        ("a.txt", b"\xff\xfe", UsageError, "UTF-8"),
        ("a.txt", b"  \n", UsageError, "empty"),
        ("a.jsonl", b"{", CheckpointError, "line 1"),
        ("a.jsonl", b'{"other": 1}', CheckpointError, "messages"),
    ],
)
def test_bad_files_are_refused_with_a_reason(tmp_path, name, content, error, says):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(error, match=says):
        text.read_files([tmp_path / name])


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        text.read_files([tmp_path / "none.txt"])
