"""Engines as the benchmarks of speed see them: something that does a sample of work and says how long it took.

Each runs in a process of its own, pinned to the same processors, with one model loaded.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, Protocol

sys.path.append(str(Path(__file__).parent / "peers"))
sys.path.append(str(Path(__file__).parents[1] / "tests"))

from speed_serving import Timing, Work

from engines.environment import EngineMissingError, llama_cpp_libraries

HERE = Path(__file__).parent

_PINNED = """
import os, sys
os.sched_setaffinity(0, {int(word) for word in sys.argv[1].split(",")})
os.execv(sys.argv[2], sys.argv[2:])
"""


class EngineRefusedError(Exception):
    """An engine does not do what was asked, or is not there; the message holds its own words."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all engines of a comparison are given alike."""

    threads: int
    isa: str = ""

    @property
    def processors(self) -> list[int]:
        """As many processors as threads: the first that this process may use."""
        return sorted(os.sched_getaffinity(0))[: self.threads]


class Engine(Protocol):
    """An engine with a model."""

    name: str
    version: str
    peak_bytes: int

    def run(self, work: Work) -> Timing:
        """Do one sample."""
        ...

    def close(self) -> None:
        """Let the model go."""
        ...


class Worker:
    """An engine whose worker script answers line by line.

    Parameters
    ----------
    name : str
    command : sequence of str
        Interpreter and script.
    options : dict
        What the script's `load` is given.

    Raises
    ------
    EngineRefusedError
        If it does not load the model.
    """

    def __init__(self, name: str, command: Sequence[str], options: dict[str, Any]) -> None:
        self.name = name
        self.peak_bytes = 0
        self._log = TemporaryFile("w+")  # noqa: SIM115 - closed with the worker
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "GGML_NO_BACKTRACE": "1"}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, env=environment, text=True
        )
        loaded = self._ask(options)
        self.load_seconds = float(loaded["load_seconds"])
        self.version = str(loaded["version"])

    def run(self, work: Work) -> Timing:
        """Do one sample."""
        answer = self._ask(vars(work))
        self.peak_bytes = int(answer.pop("peak_bytes"))
        return Timing(**answer)

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        try:
            _pipe(self._process.stdin).write(json.dumps(request) + "\n")
            _pipe(self._process.stdin).flush()
            line = _pipe(self._process.stdout).readline()
        except BrokenPipeError:
            line = ""
        answer = json.loads(line) if line else {"error": f"it ended\n{self._said()}"}
        if "error" in answer:
            self.close()
            raise EngineRefusedError(f"{self.name}: {answer['error']}")
        return dict(answer)

    def _said(self) -> str:
        self._log.seek(0)
        return self._log.read()[-2000:]

    def close(self) -> None:
        """End the process."""
        with suppress(BrokenPipeError):
            _pipe(self._process.stdin).close()
        self._process.wait()
        _pipe(self._process.stdout).close()
        self._log.close()


def _pipe(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None
    return pipe


@dataclass
class Binary:
    """An engine by its own benchmark program, which must speak as llama.cpp's `llama-bench -o json` does.

    It loads the model anew for every sample, and warms up by itself.
    """

    name: str
    program: Path
    model: Path
    setting: Setting
    flags: Sequence[str] = ()
    peak_bytes: int = field(default=0, init=False)
    version: str = field(default="as its program says", init=False)

    def run(self, work: Work) -> Timing:
        """Do one sample."""
        if work.sequences != 1:
            raise EngineRefusedError(f"{self.name}: its program is not asked for batches")
        told = {"-m": self.model, "-t": self.setting.threads, "-r": 1, "-o": "json"}
        words = [str(word) for pair in told.items() for word in pair]
        prefill = self._seconds([*words, "-p", str(work.prompt), "-n", "0"])
        depth = ["-d", str(work.prompt)] if work.prompt > 512 else []
        decode = self._seconds([*words, "-p", "0", "-n", str(work.tokens), *depth])
        return Timing(prefill, decode, [])

    def _seconds(self, words: Sequence[str]) -> float:
        processors = ",".join(map(str, self.setting.processors))
        command = [sys.executable, "-c", _PINNED, processors, str(self.program), *words, *self.flags]
        finished = subprocess.run(command, capture_output=True, text=True, check=False)
        # Some programs print what they are worried about between the lines.
        told = re.sub(r"^WARNING.*$", "", finished.stdout, flags=re.MULTILINE)
        found = re.search(r"^\[.*^\]", told, re.DOTALL | re.MULTILINE)
        if finished.returncode or found is None:
            raise EngineRefusedError(f"{self.name}: {(finished.stdout + finished.stderr)[-2000:]}")
        (row,) = json.loads(found[0])
        return float(row["avg_ns"]) * 1e-9

    def close(self) -> None:
        """There is nothing to let go."""


@dataclass(frozen=True)
class Offer:
    """An engine that could be measured: its name, one of its ways to run, and how to start it."""

    engine: str
    variant: str
    start: tuple[str, ...]
    options: dict[str, Any] = field(default_factory=dict, hash=False)

    @property
    def name(self) -> str:
        """Engine and variant."""
        return f"{self.engine} {self.variant}".strip()

    def open(self, model: Path, setting: Setting) -> Engine:
        """Start it with a model."""
        if self.engine.startswith("="):
            return Binary(self.name[1:], Path(self.start[0]), model, setting, self.start[1:])
        given = {"model": str(model), "threads": setting.threads, "processors": setting.processors}
        return Worker(self.name, self.start, {"isa": setting.isa} | given | self.options)


def ours() -> Offer:
    """Our own engine."""
    return Offer("halfpint", "", (sys.executable, str(HERE / "peers" / "speed_halfpint.py")))


def llama_cpp(setting: Setting) -> list[Offer]:
    """llama.cpp from its package, in each of the ways that change its speed.

    Raises
    ------
    EngineRefusedError
        If it is not installed.
    """
    try:
        libraries = str(llama_cpp_libraries())
    except EngineMissingError as error:
        raise EngineRefusedError(str(error)) from error
    start = (sys.executable, str(HERE / "peers" / "speed_llama_cpp.py"))
    isa = {"": "", "avx2": "haswell"}.get(setting.isa)
    if isa is None:
        raise EngineRefusedError(f"llama.cpp has no backend for {setting.isa}")
    return [
        Offer(
            "llama.cpp",
            f"{'repacked' if repack else 'as stored'}, {'flash' if flash else 'plain'} attention",
            start,
            {"libraries": libraries, "repack": repack, "flash": flash, "isa": isa},
        )
        for repack in (True, False)
        for flash in (True, False)
    ]


def python_peer(name: str, python: Path) -> list[Offer]:
    """An engine that runs in a virtual environment of its own."""
    scripts = {
        "openvino": "speed_openvino.py",
        "transformers": "speed_transformers.py",
        "torchao": "speed_torchao.py",
    }
    if name not in scripts:
        raise EngineRefusedError(f"no worker for {name}; there are: {', '.join(scripts)}")
    if not python.exists():
        raise EngineRefusedError(f"{name}: there is no {python}")
    start = (str(python), str(HERE / "peers" / scripts[name]))
    kinds = {"openvino": {"": {}}, "transformers": {"bf16": {}}}
    kinds["torchao"] = {kind: {"quantize": kind} for kind in ("int8", "int4")}
    return [Offer(name, variant, start, options) for variant, options in kinds[name].items()]


def binary(name: str, program: Path, flags: Sequence[str]) -> Offer:
    """An engine by the path of its benchmark program, with some flags."""
    return Offer(f"={name}", " ".join(flags), (str(program), *flags))
