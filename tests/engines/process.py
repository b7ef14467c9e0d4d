"""An engine in a process of its own: it may crash, and the test run goes on.

The process is started by the first call and answers calls until it is closed. `serve.py` is its other side.
"""

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

LOG_CHARACTERS = 4000


class EngineError(Exception):
    """An engine refused a call; the message holds its own words."""


class EngineCrashedError(EngineError):
    """The process of an engine died or ran out of time; the message holds the end of its log."""


class EngineProcess:
    """Calls into one module of this folder, run by another interpreter.

    Parameters
    ----------
    module : str
        Name of the module beside this file, with a table `CALLS`.
    python : Path, optional
        The interpreter that runs it.
    environment : mapping of str to str, optional
        Variables set for the process, besides those of this one.
    timeout_seconds : float, optional
        How long one call may take, the start of the process included.
    """

    def __init__(
        self,
        module: str,
        *,
        python: Path = Path(sys.executable),
        environment: Mapping[str, str] | None = None,
        timeout_seconds: float = 600.0,
    ) -> None:
        self._command = (str(python), "-P", str(Path(__file__).with_name("serve.py")), module)
        self._environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        self._environment |= {"HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore", **(environment or {})}
        self._timeout_seconds = timeout_seconds
        self._folder = tempfile.TemporaryDirectory(prefix="halfpint-engine-")
        self._log = Path(self._folder.name) / "log"
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process and delete its files; calling it again does nothing."""
        self._stop()
        self._folder.cleanup()

    def call(
        self, call: str, /, *, arrays: Mapping[str, np.ndarray] | None = None, **options: Any
    ) -> dict[str, np.ndarray]:
        """Call a function of the module and return the arrays that it returned.

        Parameters
        ----------
        call : str
            A key of the module's `CALLS`.
        arrays, **options
            Its keyword arguments: arrays, and what JSON can hold.

        Raises
        ------
        EngineError
            If the function raised.
        EngineCrashedError
            If the process died or took longer than `timeout_seconds`. The next call starts a new one.
        """
        folder = Path(self._folder.name)
        paths = {"arrays": str(folder / "arrays.npz"), "answer": str(folder / "answer.npz")}
        given: dict[str, Any] = dict(arrays or {})
        np.savez(paths["arrays"], **given)
        process = self._process = self._process or self._start()
        log_start = self._log.stat().st_size
        reply = self._exchange(process, json.dumps({"call": call, "options": options, **paths}))
        if reply is None:
            why = self._stop()
            raise EngineCrashedError(f"{call} {why}\n{self._logged_since(log_start)}")
        if reply["error"] is not None:
            raise EngineError(f"{call} failed\n{self._logged_since(log_start)}\n{reply['error']}")
        with np.load(paths["answer"], allow_pickle=False) as answer:
            return dict(answer)

    def _start(self) -> "subprocess.Popen[str]":
        with self._log.open("a") as log:
            return subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=self._environment,
                text=True,
                start_new_session=True,
            )

    def _exchange(self, process: "subprocess.Popen[str]", request: str) -> dict[str, Any] | None:
        """Send a request and return its reply, or None if the process died or is late."""
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(request + "\n")
            process.stdin.flush()
        except BrokenPipeError:
            return None
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            if not selector.select(self._timeout_seconds):
                return None
        line = process.stdout.readline()
        return json.loads(line) if line else None

    def _stop(self) -> str:
        """End the process, if there is one, and its children; say how it ended."""
        process, self._process = self._process, None
        if process is None:
            return "was not running"
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        why = f"took longer than {self._timeout_seconds} s and was stopped"
        try:
            code = process.wait(5.0)
            why = f"ended its process with {signal.Signals(-code).name if code < 0 else f'exit code {code}'}"
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        process.stdout.close()
        return why

    def _logged_since(self, start: int) -> str:
        """Return the end of what the process printed since its log had `start` bytes."""
        with self._log.open("rb") as log:
            log.seek(start)
            return log.read().decode(errors="replace")[-LOG_CHARACTERS:]
