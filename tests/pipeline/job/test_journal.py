"""The journal gives back what was written into it, and nothing that was torn or damaged."""

import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halfpint import formats
from halfpint.pipeline.job import journal
from halfpint.pipeline.job.journal import Journal
from halfpint.pipeline.results import TensorOutcome
from halfpint.plans import PlannedTensor

FINGERPRINT = {"halfpint": {"version": "1.2.3"}, "plan": {"a.weight": "q4_k by nearest"}}


def outcome(name, **changes):
    planned = PlannedTensor(name, (4, 256), formats.by_name("q4_k"), "nearest", "", "", 576)
    given = {"relative_error": 1 / 3, "seconds": 0.1, "checksums": ((0, 2, 7), (2, 4, 2**32 - 1)), "source_hash": "ab"}
    return TensorOutcome(planned, **(given | changes))


OUTCOMES = [
    outcome("a.weight"),
    outcome("b.weight", relative_error=0.0, checksums=(), note="a word in Ελληνικά, and a line\nend"),
    outcome("c.weight", losses={"nearest": 0.1, "feedback": 1e-300, "bare": math.pi}),
]
PLANNED = {item.planned.name: item.planned for item in OUTCOMES}


def write(path, outcomes=OUTCOMES):
    lines = Journal(path, FINGERPRINT, outcomes[:1])
    for item in outcomes[1:]:
        lines.add(item)
    lines.close()
    lines.close()


def read(path):
    fingerprint, records = journal.read(path)
    return fingerprint, [journal.outcome_of(record, PLANNED) for record in records]


def test_what_was_written_comes_back(tmp_path):
    write(tmp_path / "journal")
    fingerprint, outcomes = read(tmp_path / "journal")
    assert fingerprint == FINGERPRINT
    assert outcomes == OUTCOMES
    assert list(outcomes[2].losses) == ["nearest", "feedback", "bare"]


def test_no_journal_tells_of_nothing(tmp_path):
    assert journal.read(tmp_path / "journal") == (None, [])


def test_a_journal_cut_anywhere_tells_of_all_whole_lines(tmp_path):
    path = tmp_path / "journal"
    write(path)
    data = path.read_bytes()
    for size in range(len(data)):
        path.write_bytes(data[:size])
        whole = len([line for line in data[:size].splitlines() if line in data.splitlines()])
        fingerprint, outcomes = read(path)
        assert fingerprint == (FINGERPRINT if whole else None)
        assert outcomes == OUTCOMES[: max(0, whole - 1)]


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_a_damaged_line_is_left_out_and_the_others_stay(tmp_path_factory, data):
    path: Path = tmp_path_factory.mktemp("journal") / "journal"
    write(path)
    lines = path.read_bytes().splitlines()
    number = data.draw(st.integers(1, len(OUTCOMES)))
    position = data.draw(st.integers(0, len(lines[number]) - 1))
    wrong = data.draw(st.integers(0, 255).filter(lambda byte: byte not in {lines[number][position], 10, 13}))
    lines[number] = lines[number][:position] + bytes([wrong]) + lines[number][position + 1 :]
    path.write_bytes(b"\n".join(lines))
    _, outcomes = read(path)
    rest = [item for index, item in enumerate(OUTCOMES, start=1) if index != number]
    # A blank instead of a blank, or a digit of the sum as 1e2: the same JSON, so no damage.
    assert outcomes in (rest, OUTCOMES)


@pytest.mark.parametrize("hole", [b"", b"\0" * 4096, b"{}\n", b"[1]\n", b'{"crc32":1,"record":{"fingerprint":{}}}\n'])
def test_without_its_beginning_a_journal_tells_of_nothing(tmp_path, hole):
    path = tmp_path / "journal"
    write(path)
    path.write_bytes(hole + b"".join(path.read_bytes().splitlines(keepends=True)[1:]))
    assert journal.read(path) == (None, [])


def test_a_new_journal_takes_the_place_of_the_old_one_as_a_whole(tmp_path):
    path = tmp_path / "journal"
    write(path)
    path.write_bytes(path.read_bytes()[:-3])
    write(path, OUTCOMES[1:])
    assert read(path) == (FINGERPRINT, OUTCOMES[1:])
    assert [item.name for item in tmp_path.iterdir()] == ["journal"]
