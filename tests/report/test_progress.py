from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest
from rich.console import Console

from halfpint.pipeline.job.resuming import CONTINUING
from halfpint.report import progress


def work(report, names=("a.weight", "b.weight"), nbytes=1000):
    total = nbytes * len(names)
    for place, name in enumerate(names):
        report("quantize", place * nbytes, total, name)
        report("quantize", place * nbytes + nbytes // 2, total, name)
    report("quantize", total, total, "")


def test_the_log_has_one_line_per_tensor_and_one_at_the_end(tmp_path):
    with progress.reporting(tmp_path / "log", None) as report:
        work(report)
    lines = (tmp_path / "log").read_text(encoding="utf-8").splitlines()
    assert [line.split("%")[1].strip() for line in lines] == ["quantize a.weight", "quantize b.weight", "quantize done"]
    assert "50.0 %" in lines[1]


def test_events_are_json_lines_that_end_with_finished(tmp_path):
    with progress.reporting(None, tmp_path / "events") as report:
        work(report)
    events = [json.loads(line) for line in (tmp_path / "events").read_text(encoding="utf-8").splitlines()]
    assert [event["event"] for event in events] == ["progress"] * 5 + ["finished"]
    assert {"stage", "done", "total", "detail", "seconds", "memory_bytes"} <= set(events[0])
    assert events[4]["done"] == events[4]["total"] == 2000
    assert all(event["memory_bytes"] > 0 for event in events)


def test_a_failure_is_the_last_event(tmp_path):
    with pytest.raises(KeyError), progress.reporting(None, tmp_path / "events"):
        raise KeyError("lost")
    last = json.loads((tmp_path / "events").read_text(encoding="utf-8").splitlines()[-1])
    assert (last["event"], last["kind"]) == ("failed", "KeyError")


def test_nothing_is_shown_where_standard_error_is_no_terminal(capfd, tmp_path):
    with progress.reporting(None, None) as report:
        work(report)
    assert capfd.readouterr() == ("", "")


def test_a_terminal_shows_percentage_speed_memory_and_the_tensor(monkeypatch):
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=120)
    with progress.line(console) as report:
        report.shown.start()
        report("quantize", 500, 1000, "evil\x1b]0;x\x07[bold].weight")
        report.shown.refresh()
    shown = screen.getvalue()
    assert "50%" in shown
    assert "/s" in shown
    assert "left" in shown
    assert "[bold].weight" in shown
    assert "\x1b]0;" not in shown


def test_a_short_job_shows_nothing(monkeypatch):
    screen = io.StringIO()
    with progress.line(Console(file=screen, force_terminal=True)) as report:
        work(report)
    assert screen.getvalue().strip() == ""


def test_speed_says_what_it_counts():
    assert progress.speed("measure", 620, 2.0) == "310 token-layers/s"
    assert progress.speed("quantize", 2_400_000_000, 2.0) == "1.20 GB/s"
    assert progress.speed("quantize", 0, 2.0) == ""


def test_memory_is_what_the_process_holds():
    assert 10**6 < progress.resident_bytes() < 10**12


def test_every_stage_has_a_unit_and_only_bytes_and_tokens_a_speed():
    source = Path(progress.__file__).parents[1]
    told = {
        stage
        for path in source.rglob("*.py")
        for stage in re.findall(r"progress\(\s*\"([a-z ]+)\"", path.read_text(encoding="utf-8"))
    }
    assert told | {CONTINUING} == set(progress.UNITS)
    assert (
        progress.speed("weigh", 200, 2.0) == progress.speed("sense", 2, 2.0) == progress.speed("unknown", 9, 1.0) == ""
    )
