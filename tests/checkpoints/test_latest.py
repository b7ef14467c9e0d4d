"""What was made of files is made once while they are the same, and again when they are not."""

import os
import shutil

import pytest
import tokenizers

from halfpint.checkpoints import CONTAINERS, open_checkpoint
from halfpint.checkpoints.latest import Latest
from halfpint.models.opening import demo_folder
from halfpint.pipeline import verbs
from halfpint.pipeline.options import Budget, MeasureOptions, QuantizeOptions
from halfpint.planning.planner import Wish, make_plan
from halfpint.tokenization import load_tokenizer


def test_the_latest_are_kept_and_errors_are_not():
    made = []
    latest = Latest(2)
    for key in "aabacca":
        latest.get(key, lambda key=key: made.append(key) or key)
    assert made == ["a", "b", "c"]
    latest.get("d", lambda: made.append("d"))
    latest.get("c", lambda: made.append("c"))
    assert made == ["a", "b", "c", "d", "c"]
    with pytest.raises(ZeroDivisionError):
        latest.get("e", lambda: 1 / 0)
    assert latest.get("e", lambda: 5) == 5


@pytest.fixture
def parsed(monkeypatch):
    """Counts how often a tokenizer.json is parsed."""
    count = []
    parse = tokenizers.Tokenizer.from_buffer

    class Counting:
        from_str = staticmethod(tokenizers.Tokenizer.from_str)

        @staticmethod
        def from_buffer(data):
            count.append(len(data))
            return parse(data)

    monkeypatch.setattr("halfpint.checkpoints.tokenizer_files.tokenizers.Tokenizer", Counting)
    return count


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(demo_folder(), tmp_path / "copy")


def test_a_search_for_a_size_parses_the_tokenizer_once_for_each_use(folder, parsed, tmp_path):
    options = QuantizeOptions(budget=Budget(size_bytes=4_000_000), calibrate=False, measure=MeasureOptions(tokens=200))
    verbs.quantize(folder, tmp_path / "out.gguf", options)
    assert len(parsed) <= 2  # as metadata of a file, and to make tokens of text


def test_many_plans_parse_it_once(folder, parsed):
    source = open_checkpoint(folder)
    for bits in (2, 3, 4, 5, 6, 8):
        make_plan(source, CONTAINERS["gguf"], Wish(bits=bits))
    assert len(parsed) == 1


def test_a_changed_file_is_parsed_again(folder, parsed):
    source = open_checkpoint(folder)
    first = load_tokenizer(source)
    assert load_tokenizer(source) is first
    file = folder / "tokenizer.json"
    status = file.stat()
    file.write_bytes(file.read_bytes() + b" ")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert load_tokenizer(source) is not first
    assert len(parsed) == 2
