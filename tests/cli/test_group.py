from __future__ import annotations

import errno
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from halfpint import errors
from halfpint.cli import COMMANDS, group, main

HEAVY = ("numpy", "rich", "jinja2", "tokenizers", "ml_dtypes", "safetensors")


COMMAND = f"{shlex.quote(sys.executable)} -m halfpint.cli"


def shell(script):
    return subprocess.run(["/bin/sh", "-c", script], capture_output=True, text=True, check=False)


def run(*arguments):
    return CliRunner().invoke(main, arguments)


def test_help_imports_nothing_heavy():
    program = (
        "import sys, halfpint.cli\n"
        "try:\n    halfpint.cli.main(['--help'])\nexcept SystemExit as end:\n    assert end.code == 0\n"
        f"loaded = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "assert not loaded, loaded\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "quantize" in done.stdout


def test_importing_the_package_imports_nothing_heavy():
    program = f"import sys, halfpint\nassert not [name for name in {HEAVY!r} if name in sys.modules]"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_without_arguments_it_shows_the_help():
    assert run().output == run("--help").output
    assert run().exit_code == 0


def test_the_version():
    assert run("--version").output.strip().startswith("halfpint, version ")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_module_and_help(name):
    result = run(name, "--help")
    assert result.exit_code == 0
    assert result.output.startswith(f"Usage: main {name}")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_says_what_it_does(name):
    command = main.get_command(click.Context(main), name)
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.name


def test_a_mistyped_command_is_guessed():
    result = run("quantise", "demo", "out.gguf")
    assert result.exit_code == 2
    assert "do you mean quantize?" in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("inspect",), "Missing argument 'MODEL'"),
        (("plan", "demo", "--fitting", "8GB"), "No such option"),
        (("plan", "demo", "--bits", "9"), "--bits"),
        (("plan", "demo", "--to", "mlx"), "--to"),
        (("quantize", "demo", "out", "--keep", "ninety"), "write 97% or 0.97"),
        (("quantize", "demo", "out", "--keep", "97"), "write 97% or 0.97"),
        (("measure", "demo"), "--against"),
        (("verify", "demo", "--threads", "0"), "for '--threads'"),
        (("verify", "demo", "--threads", "1025"), "for '--threads'"),
        (("verify", "demo", "--threads", "9" * 40), "for '--threads'"),
        (("plan", "demo", "--bits", "4.5"), "no whole number from 2 to 8"),
        (("plan", "demo", "--format", "q4k"), "among others: q4_k,"),
        (("quantize", "demo", "out", "--keep", "nan"), "write 97% or 0.97"),
        (("quantize", "demo", "out", "--max-kl", "nan"), "--max-kl"),
        (("generate", "demo", "a", "--temperature", "nan"), "--temperature"),
        (("generate", "demo", "a", "--temperature", "inf"), "--temperature"),
        (("generate", "demo", "a", "--top-p", "nan"), "--top-p"),
        (("generate", "demo", "a", "--min-p", "nan"), "--min-p"),
        (("generate", "demo", "a", "--repetition-penalty", "nan"), "--repetition-penalty"),
        (("generate", "demo", "a", "--repetition-penalty", "1e38"), "--repetition-penalty"),
        (("inspect", ""), "name is empty"),
    ],
)
def test_bad_usage_is_one_line_and_exit_code_2(arguments, words):
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert words in result.stderr
    assert result.stderr.startswith("halfpint: error: ")
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [
        (errors.HalfpintError("x"), 3),
        (errors.UsageError("x"), 2),
        (errors.ShapeError("x"), 2),
        (errors.CheckpointError("x"), 3),
        (errors.UnsupportedError("x"), 2),
        (errors.NonFiniteError("x"), 3),
        (errors.VerificationError("x"), 3),
        (errors.RoomError("x"), 4),
        (MemoryError(), 4),
        (OSError(errno.ENOSPC, "No space left on device"), 4),
        (OSError(errno.ENOENT, "No such file or directory", "a.gguf"), 3),
        (PermissionError(errno.EACCES, "Permission denied"), 3),
        (KeyboardInterrupt(), 130),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 141),
        (ValueError("a bug"), 70),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else str(value),
)
def test_every_error_has_its_exit_code(error, exit_code):
    assert group.explain(error).code == exit_code


def test_a_message_is_one_line_that_cannot_drive_the_terminal():
    said = group.explain(errors.CheckpointError("bad\nname \x1b[2J\x07 in\tfile")).message
    assert said == "error: bad name \\x1b[2J\\x07 in file"


def failing(error):
    @click.command()
    def command():
        raise error

    return command


class OneCommand(group.LazyGroup):
    """A group whose one command fails as it is told."""

    failure: BaseException = KeyboardInterrupt()

    def get_command(self, *_):
        return failing(self.failure)


@pytest.mark.parametrize(
    ("failure", "exit_code", "said"),
    [
        (KeyboardInterrupt(), 130, "halfpint: interrupted\n"),
        (RuntimeError("oh"), 70, "halfpint: error: a fault of halfpint itself: RuntimeError: oh; "),
        (errors.RoomError("full"), 4, "halfpint: error: full\n"),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 141, ""),
    ],
    ids=["interrupt", "fault", "room", "pipe"],
)
def test_a_failing_command_ends_with_one_line(failure, exit_code, said):
    made = OneCommand(entries={"fail": group.CommandEntry("", "")})
    made.failure = failure
    result = CliRunner().invoke(made, ["fail"])
    assert result.exit_code == exit_code
    assert result.stderr.startswith(said)
    assert "Traceback" not in result.stderr


def test_a_traceback_is_printed_on_request_only(tmp_path):
    missing = str(tmp_path / "missing")
    assert "Traceback" not in run("inspect", missing).stderr
    told = run("inspect", missing, "--traceback")
    assert "Traceback" in told.stderr
    assert told.exit_code == 3


def test_a_closed_pipe_is_quiet():
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as closed:
        done = subprocess.run(
            [sys.executable, "-m", "halfpint.cli", "--help"], stdout=closed, stderr=subprocess.PIPE, check=False
        )
    assert done.returncode == group.NOBODY_READS
    assert done.stderr == b""


@pytest.mark.parametrize("arguments", [("--help",), ("verify", "demo"), ("generate", "demo", "a", "--max-tokens", "1")])
def test_a_closed_standard_output_is_one_line(arguments):
    done = shell(f"{COMMAND} {' '.join(arguments)} >&-")
    assert done.returncode == group.NOBODY_READS
    assert done.stderr.startswith("halfpint: error: standard output is closed")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("arguments", ["chat demo", "generate demo -"])
def test_a_closed_standard_input_is_bad_usage(arguments):
    done = shell(f"{COMMAND} {arguments} <&-")
    assert done.returncode == 2
    assert done.stderr.startswith("halfpint: error: standard input is closed")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.usefixtures("heeded_signals")
@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_ends_a_job_and_removes_what_is_unfinished(tmp_path, number, exit_code):
    events = tmp_path / "events"
    os.mkfifo(events)
    output = tmp_path / "results" / "out.gguf"
    output.parent.mkdir()
    job = ("quantize", "demo", str(output), "--bits", "4", "--events", str(events))
    with subprocess.Popen([sys.executable, "-m", "halfpint.cli", *job], stderr=subprocess.PIPE, text=True) as process:
        with events.open() as told:
            # Within the job: the pipe of the events is open, and the job waits for its reader.
            assert told.readline()
            process.send_signal(number)
            ends = told.readlines()
        said = process.stderr.read()
    assert process.returncode == exit_code
    assert '"event": "failed"' in ends[-1]
    # A tensor may be finished by the time that the signal arrives: then it is kept, and the message says so.
    left = [path.name for path in output.parent.iterdir()]
    if left:
        assert left == [".out.gguf.halfpint-job"]
        assert said.startswith(f"halfpint: ended by {number.name}; ")
        assert "the same command goes on from there" in said
    else:
        assert said == f"halfpint: ended by {number.name}\n"


def test_a_terminal_without_our_signs_gets_escapes():
    done = subprocess.run(
        [sys.executable, "-m", "halfpint.cli", "inspect", "demo"],
        env=os.environ | {"PYTHONIOENCODING": "latin-1"},
        capture_output=True,
        check=True,
    )
    assert b"\\u2588" in done.stdout
    assert done.stderr == b""


@pytest.mark.parametrize(
    "arguments",
    [
        ("generate", "demo", "The old house", "--max-tokens", "2"),
        ("chat", "demo", "--max-tokens", "2"),
        ("quantize", "demo", "out.gguf", "--bits", "4", "--no-calibrate", "--no-measure"),
        ("inspect", "demo"),
        ("bench", "demo", "--prompt", "8", "--tokens", "2", "--repeats", "1"),
    ],
    ids=lambda words: words[0],
)
def test_a_closed_standard_error_is_no_fault(arguments, tmp_path):
    words = " ".join(f"'{word}'" for word in (sys.executable, "-m", "halfpint.cli", *arguments))
    done = subprocess.run(["sh", "-c", f"echo hello | {words} 2>&-"], cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 0
    assert done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("inspect", "demo"),
        ("generate", "demo", "x", "--max-tokens", "2"),
        ("plan", "demo", "--bits", "4", "--json"),
        ("--help",),
    ],
    ids=lambda words: words[0],
)
def test_a_full_standard_output_is_out_of_room(arguments):
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "halfpint.cli", *arguments],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 4, done.stderr
    assert "Exception ignored" not in done.stderr
    assert "No space left" in done.stderr


def test_the_limit_of_processor_time_ends_a_job_in_words(tmp_path):
    words = f"ulimit -St 1; exec '{sys.executable}' -m halfpint.cli quantize demo out.gguf --bits 3"
    done = subprocess.run(["bash", "-c", words], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 128 + signal.SIGXCPU
    assert "ended by SIGXCPU" in done.stderr
