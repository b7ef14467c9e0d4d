from __future__ import annotations

import os
import subprocess
import sys

import pytest
from click.testing import CliRunner

from halfpint.cli import main


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_completes_halfpint(shell):
    result = CliRunner().invoke(main, ["completion", shell])
    assert result.exit_code == 0
    assert "_HALFPINT_COMPLETE" in result.output
    assert f"{shell}_complete" in result.output


def complete(*words):
    """What the script asks of the program when the last word is to be completed."""
    line = " ".join(["halfpint", *words])
    environment = os.environ | {
        "_HALFPINT_COMPLETE": "bash_complete",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words)),
    }
    program = [sys.executable, "-c", "from halfpint.cli import main; main(prog_name='halfpint')"]
    done = subprocess.run(program, env=environment, capture_output=True, text=True, check=True)
    return [entry.split(",", 1)[1] for entry in done.stdout.splitlines()]


def test_commands_are_completed():
    assert complete("qu") == ["quantize"]
    assert complete("p") == ["plan"]


def test_options_and_formats_are_completed():
    assert "--keep" in complete("quantize", "--k")
    assert complete("quantize", "--format", "q4_") == ["q4_0", "q4_1", "q4_k"]
