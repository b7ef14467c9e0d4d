"""Being told to stop: a signal becomes an exception, so that unfinished files are removed on the way out."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# SIGHUP and SIGXCPU are unknown to Windows.
_STOPPING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGXCPU") if hasattr(signal, name))
_told: list[int] = []


class Stopped(BaseException):
    """A signal that asks the process to end; no `Exception`, so that nothing takes it for an error of its own."""

    def __init__(self, number: int) -> None:
        super().__init__(f"ended by {signal.Signals(number).name}")
        self.exit_code = 128 + number


def _stop(number: int, _frame: FrameType | None) -> None:
    # The first one ends the work; another must not cut short the removal of unfinished files.
    for each in (*_STOPPING, signal.SIGINT):
        signal.signal(each, signal.SIG_IGN)
    _told.append(number)
    raise Stopped(number)


@contextmanager
def stopping() -> Iterator[None]:
    """Raise `Stopped` in the main thread when a signal asks the process to end.

    A signal that is ignored already, as `nohup` does with SIGHUP, stays ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (*_STOPPING, signal.SIGINT)}
    for number in _STOPPING:
        if before[number] is signal.SIG_DFL:
            signal.signal(number, _stop)
    _told.clear()
    try:
        yield
        if _told:  # it came where Python drops exceptions, as in the removal of an object
            raise Stopped(_told[0])
    finally:
        for number, handler in before.items():
            if handler in (signal.SIG_DFL, signal.default_int_handler):
                signal.signal(number, handler)
