"""The command line says what it keeps, what it goes on with, and how to start again."""

import fcntl
import os
import select
import signal
import struct
import subprocess
import sys
import termios
from contextlib import contextmanager
from pathlib import Path

import pytest

import halfpint
import tiny_models

PIPE = 4096
"""Bytes of the smallest pipe."""

ROOM, EVENT = 1600, 300
"""Bytes for about ten events, and more than one has."""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny") / "llama"
    tiny_models.save_tiny("llama", folder)
    return folder


@pytest.fixture(autouse=True)
def interrupts_are_heard():
    """A process that a shell runs in its background ignores SIGINT, and so would the commands that are started here."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def halfpint_command(tiny, output, *more):
    return [sys.executable, "-m", "halfpint", "quantize", str(tiny), str(output), "--bits", "4", "--no-calibrate",
            "--no-measure", *more]  # fmt: skip


def start(tiny, output, *more):
    environment = os.environ | {"PYTHONPATH": str(Path(halfpint.__file__).parents[1])}
    command = halfpint_command(tiny, output, *more)
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


@contextmanager
def narrow_pipe(path):
    """A named pipe with room for some events, but not for all of a job."""
    os.mkfifo(path)
    end = os.open(path, os.O_RDWR)
    try:
        assert fcntl.fcntl(end, fcntl.F_SETPIPE_SZ, PIPE) == PIPE
        os.write(end, b"\n" * (PIPE - ROOM))
        yield end
    finally:
        os.close(end)


def waiting_bytes(pipe):
    """Of those that a command has written to a narrow pipe."""
    (count,) = struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)))
    return count - (PIPE - ROOM)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_command_says_how_to_go_on_and_the_same_command_does(tiny, tmp_path, number, code):
    output, events = tmp_path / "out.gguf", tmp_path / "events"
    with narrow_pipe(events) as told:
        stopped = start(tiny, output, "--events", str(events))
        # Some tensors are finished then. Nobody reads on, and there is no room for the others: the command waits.
        while waiting_bytes(told) < ROOM - EVENT:
            assert stopped.poll() is None
        stopped.send_signal(number)
        rest = b""
        while stopped.poll() is None:
            if select.select([told], [], [], 0.1)[0]:
                rest += os.read(told, PIPE)
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
