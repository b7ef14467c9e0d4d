"""Under a limit of memory a command does its work or ends with 4 and words: no abort, no other exit code."""

import subprocess
import sys
from pathlib import Path

import pytest

from halfpint.pipeline import verbs
from halfpint.pipeline.options import QuantizeOptions

KILOBYTES = (100_000, 175_000, 250_000, 350_000, 475_000, 600_000)
COMMANDS = {
    "measure": "measure small.gguf --against demo --tokens 300",
    "calibrate": "quantize demo out.gguf --bits 4 --calibration-tokens 300 --tokens 300",
    "round": "quantize demo out.gguf --bits 4 --no-calibrate --no-measure",
    "generate": "generate demo hello --max-tokens 4",
    "chat": "chat demo --max-tokens 2",
    "verify": "verify demo",
    "plan": "plan demo --bits 4",
    "bench": "bench demo --prompt 8 --tokens 2 --repeats 1",
}
# These have no option of threads.
SINGLE = ("verify", "plan")


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("small") / "small.gguf"
    return verbs.quantize("demo", path, QuantizeOptions(bits=8, calibrate=False, measure=None)).output


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("threads", [1, 8, 16])
def test_a_limit_of_memory_ends_in_the_result_or_in_words(name, threads, small, tmp_path):
    (tmp_path / "small.gguf").symlink_to(small)
    more = "" if name in SINGLE else f"--threads {threads}"
    outcomes = {}
    for limit in KILOBYTES if threads == 8 or name == "calibrate" else KILOBYTES[1::2]:
        (tmp_path / "out.gguf").unlink(missing_ok=True)
        command = f"ulimit -v {limit}; echo hello | '{sys.executable}' -m halfpint.cli {COMMANDS[name]} {more}"
        done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)
        outcomes[limit] = (done.returncode, done.stderr[-300:])
        assert done.returncode in (0, 4), outcomes
        assert done.returncode == 0 or "halfpint: error" in done.stderr, outcomes
