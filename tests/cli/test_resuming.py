"""The command line says what it keeps, what it goes on with, and how to start again."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import halfpint
import tiny_models


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny") / "llama"
    tiny_models.save_tiny("llama", folder)
    return folder


def halfpint_command(tiny, output, *more):
    return [sys.executable, "-m", "halfpint", "quantize", str(tiny), str(output), "--bits", "4", "--no-calibrate",
            "--no-measure", *more]  # fmt: skip


def start(tiny, output, *more):
    environment = os.environ | {"PYTHONPATH": str(Path(halfpint.__file__).parents[1])}
    command = halfpint_command(tiny, output, *more)
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_command_says_how_to_go_on_and_the_same_command_does(tiny, tmp_path, number, code):
    output, events = tmp_path / "out.gguf", tmp_path / "events"
    os.mkfifo(events)
    stopped = start(tiny, output, "--events", str(events))
    with events.open() as told:
        for line in told:
            # Two tensors are finished when the third is begun. Nobody reads on: the command waits, or is stopped.
            if '"stage": "quantize"' in line and '"done": 0' not in line:
                stopped.send_signal(number)
                break
        rest = told.read()
    _, said = stopped.communicate()
    assert stopped.returncode == code, (said, rest)
    assert "of 21 tensors are kept in " in said
    assert "the same command goes on from there, with --fresh it starts again" in said
    other = start(tiny, output, "--rule", "*q_proj*=q8_0")
    assert "--fresh" in other.communicate()[1]
    assert other.returncode == 2
    again = start(tiny, output)
    _, said = again.communicate()
    assert again.returncode == 0, said
    assert said.startswith("continuing: ")
    assert said.endswith(" of 21 tensors were done\n")


def test_fresh_says_nothing_of_an_earlier_run(tiny, tmp_path):
    process = start(tiny, tmp_path / "out.gguf", "--fresh")
    assert process.communicate()[1] == ""
    assert process.returncode == 0
