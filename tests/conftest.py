"""What all tests share."""

from collections.abc import Callable, Iterator

import pytest

from halfpint.kernels import machine


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Set the number of threads; after the test it is what it was."""
    before = machine.thread_count()
    yield machine.set_thread_count
    machine.set_thread_count(before)
