"""What the tests of the command line share."""

import signal

import pytest


@pytest.fixture
def heeded_signals():
    """Let children heed SIGHUP and SIGINT, which they inherit as ignored from `nohup` or from a shell's `&`."""
    before = {number: signal.getsignal(number) for number in (signal.SIGHUP, signal.SIGINT)}
    for number, handler in before.items():
        if handler is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
