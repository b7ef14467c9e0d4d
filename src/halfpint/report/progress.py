"""What a long job shows while it runs: a line on a terminal, a log for people, events for machines."""

from __future__ import annotations

import json
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, Task, TaskProgressColumn, TextColumn
from rich.progress import Progress as RichProgress
from rich.text import Text

from halfpint.errors import UsageError
from halfpint.pipeline.job.resuming import CONTINUING
from halfpint.pipeline.options import Progress
from halfpint.report.numbers import count, duration, rate, size
from halfpint.report.terminal_text import one_line

# Whatever is over sooner needs no progress line.
PATIENCE_SECONDS = 2.0

UNITS: Mapping[str, str] = MappingProxyType(
    {
        "quantize": "bytes",
        "verify": "bytes",
        "check": "bytes",
        "compare the source": "bytes",
        CONTINUING: "bytes",
        "measure": "token-layers",
        "weigh": "tensors",
        "sense": "groups of tensors",
        "bench": "",
    }
)
"""What each stage counts: a token once for each layer that it has passed; nothing that has one speed in a benchmark."""


def resident_bytes() -> int:
    """Memory that this process holds now; on systems without /proc the most that it ever held."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    return pages * resource.getpagesize()


def speed(stage: str, done: int, seconds: float) -> str:
    """How fast a stage goes: `1.2 GB/s` or `3.1k token-layers/s`; empty before anything is done.

    Stages of tensors have no speed: one takes a thousand times as long as another.
    """
    unit = UNITS.get(stage, "")
    if done <= 0 or seconds <= 0 or unit not in ("bytes", "token-layers"):
        return ""
    return rate(done / seconds) if unit == "bytes" else f"{count(done / seconds)} {unit}/s"


class _Speed(ProgressColumn):
    """Speed and time left, from the whole of the stage so far: steadier than from its last second."""

    def render(self, task: Task) -> Text:
        """Draw the column."""
        seconds = task.elapsed or 0.0
        done, total = int(task.completed), task.total or 0
        left = f"{duration(seconds * (total - done) / done)} left" if done > 0 else ""
        return Text("  ".join(word for word in (left, speed(task.description, done, seconds)) if word))


class _Memory(ProgressColumn):
    """Memory of this process."""

    def render(self, task: Task) -> Text:  # noqa: ARG002 - rich's signature
        """Draw the column."""
        return Text(size(resident_bytes()), style="dim")


@dataclass(slots=True)
class Line:
    """A progress line on a terminal, which appears only when the job takes longer than `PATIENCE_SECONDS`."""

    shown: RichProgress
    timer: threading.Timer
    stage: str = ""

    def __call__(self, stage: str, done: int, total: int, detail: str) -> None:
        """Take in one step."""
        if stage != self.stage:
            self.stage = stage
            for task in self.shown.task_ids:
                self.shown.remove_task(task)
            self.shown.add_task(stage, total=total, detail="")
        self.shown.update(self.shown.task_ids[0], completed=done, total=total, detail=one_line(detail))


@contextmanager
def line(console: Console) -> Iterator[Line]:
    """Show a progress line on this terminal; it vanishes at the end."""
    shown = RichProgress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        TaskProgressColumn(),
        _Speed(),
        _Memory(),
        TextColumn("{task.fields[detail]}", style="dim", markup=False),
        console=console,
        transient=True,
    )
    timer = threading.Timer(PATIENCE_SECONDS, shown.start)
    timer.daemon = True
    timer.start()
    try:
        yield Line(shown, timer)
    finally:
        timer.cancel()
        timer.join()
        shown.stop()


@dataclass(frozen=True, slots=True)
class Notice:
    """One line on standard error when a job goes on with what an earlier process left: it explains what comes."""

    console: Console

    def __call__(self, stage: str, done: int, total: int, detail: str) -> None:  # noqa: ARG002 - a listener's signature
        """Take in one step."""
        if stage == CONTINUING:
            self.console.print(f"continuing: {one_line(detail)}", markup=False, soft_wrap=True)


@dataclass(slots=True)
class Log:
    """One line per tensor: when it began, how far the stage is, its name, and how long the one before took."""

    file: TextIO
    started: float = field(default_factory=time.monotonic)
    last: str = ""

    def __call__(self, stage: str, done: int, total: int, detail: str) -> None:
        """Take in one step; steps within a tensor are left out."""
        if (what := f"{stage} {one_line(detail) or 'done'}") == self.last:
            return
        self.last = what
        share = 100 * done / total if total else 100.0
        self.file.write(f"{time.monotonic() - self.started:9.2f} s  {share:5.1f} %  {what}\n")
        self.file.flush()


@dataclass(slots=True)
class Events:
    """One JSON object per step, in a file: `stage`, `done`, `total`, `detail`, `seconds`, `memory_bytes`."""

    file: TextIO
    started: float = field(default_factory=time.monotonic)

    def __call__(self, stage: str, done: int, total: int, detail: str) -> None:
        """Take in one step."""
        self.write({"event": "progress", "stage": stage, "done": done, "total": total, "detail": detail})

    def write(self, event: dict[str, str | int]) -> None:
        """Write one event with its time and the memory in use."""
        seconds = round(time.monotonic() - self.started, 3)
        whole = event | {"seconds": seconds, "memory_bytes": resident_bytes()}
        self.file.write(json.dumps(whole) + "\n")
        self.file.flush()


@contextmanager
def reporting(log: Path | None, events: Path | None) -> Iterator[Progress]:
    """Gather everything that wants to hear of progress.

    Parameters
    ----------
    log, events : Path or None
        Files to write anew; None for none of the kind. The last event says `finished` or `failed`.

    Yields
    ------
    Progress
        To be given to a verb. Standard error shows a line only when it is a terminal.

    Raises
    ------
    UsageError
        If a file cannot be written.
    """
    listeners: list[Callable[[str, int, int, str], None]] = []
    with ExitStack() as stack:
        if log is not None:
            listeners.append(Log(stack.enter_context(_opened("--log", log))))
        if events is not None:
            journal = Events(stack.enter_context(_opened("--events", events)))
            stack.enter_context(_ending(journal))
            listeners.append(journal)
        console = Console(stderr=True, highlight=False)
        listeners.append(Notice(console))
        if console.is_terminal:
            listeners.append(stack.enter_context(line(console)))

        def tell(stage: str, done: int, total: int, detail: str) -> None:
            for listener in listeners:
                listener(stage, done, total, detail)

        yield tell


def _opened(option: str, path: Path) -> TextIO:
    try:
        return path.open("w", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{option} {path}: cannot be written: {error.strerror}") from error


@contextmanager
def _ending(journal: Events) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        journal.write({"event": "failed", "error": one_line(str(error)), "kind": type(error).__name__})
        raise
    journal.write({"event": "finished"})
