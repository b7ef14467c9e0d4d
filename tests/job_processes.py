"""A job in a process of its own, which comes to an end at a chosen step: killed, interrupted, or out of room.

Run as a program, it imports everything once and is then forked for each job that it is told of on standard input: so
a job starts in milliseconds, and in a process that holds nothing of the tests.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from halfpint import kernels
from halfpint.errors import HalfpintError
from halfpint.models.opening import open_model
from halfpint.pipeline.choosing.plan_selection import decide
from halfpint.pipeline.job import quantization
from halfpint.pipeline.job.quantization import JobSettings, Written
from halfpint.pipeline.looking.measurement import gather
from halfpint.pipeline.options import CalibrationOptions, Progress, QuantizeOptions


def kill() -> None:
    """End this process as a power cut would, but for what the kernel holds."""
    os.kill(os.getpid(), signal.SIGKILL)


def fill_the_disk() -> None:
    """From now on no file can be written beyond its first few bytes."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))


def interrupt() -> None:
    """What Ctrl-C does."""
    raise KeyboardInterrupt


def options(container: str, *, calibrate: bool = False, tokens: int = 0, **wish: Any) -> QuantizeOptions:
    """A job without the comparison at the end."""
    text = CalibrationOptions(tokens=tokens)
    return QuantizeOptions(container=container, calibrate=calibrate, calibration=text, measure=None, **wish)


def carry_out(model: Path | str, output: Path | str, wish: Mapping[str, Any], at: Progress) -> Written:
    """A job as `halfpint quantize` does it, but that the state of calibration is saved after every block."""
    wanted = options(**wish)
    source = open_model(model)
    try:
        plan = decide(source, wanted).plan
        text = gather(source, plan, wanted.calibration)
        text = None if text is None else replace(text, save_seconds=0.0)
        return quantization.quantize(source, Path(output), plan, text, at, JobSettings(wanted.fresh))
    finally:
        source.close()


class At:
    """A progress function that does something at its nth call (counted from 0), and counts."""

    def __init__(self, step: int = -1, action: Callable[[], None] = kill) -> None:
        self.step = step
        self.action = action
        self.calls = 0
        self.stages: list[str] = []
        self.details: list[str] = []

    def __call__(self, stage: str, done: int, total: int, detail: str) -> None:
        assert 0 <= done <= total
        self.stages.append(stage)
        self.details.append(detail)
        self.calls += 1
        if self.calls - 1 == self.step:
            self.action()


Run = Callable[..., int]
"""(model, output, wish, step=-1, action="kill", threads=1) -> exit code of the process, negative for a signal."""


@contextmanager
def runner() -> Iterator[Run]:
    """Start the program, and give a function that lets it do a job."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, __file__]
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdin is not None
        assert server.stdout is not None

        def run(
            model: Path,
            output: Path,
            wish: Mapping[str, Any],
            *,
            step: int = -1,
            action: str = "kill",
            threads: int = 1,
        ) -> int:
            task = {"model": str(model), "output": str(output), "wish": wish}
            server.stdin.write(json.dumps(task | {"step": step, "action": action, "threads": threads}) + "\n")
            server.stdin.flush()
            return int(server.stdout.readline())

        yield run


_ACTIONS = {"kill": kill, "fill the disk": fill_the_disk, "interrupt": interrupt}


def _carry_out(task: Mapping[str, Any]) -> int:
    kernels.set_thread_count(task["threads"])
    at = At(task["step"], _ACTIONS[task["action"]])
    try:
        carry_out(task["model"], task["output"], task["wish"], at)
    except HalfpintError as error:
        return error.exit_code
    return 0


def _serve() -> None:
    for line in sys.stdin:
        process = os.fork()
        if process == 0:
            code = 70
            try:
                code = _carry_out(json.loads(line))
            finally:
                os._exit(code)
        _, status = os.waitpid(process, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    _serve()
