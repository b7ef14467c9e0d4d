"""What all tests share."""

from collections.abc import Callable, Iterator

import pytest

from halfpint.kernels import _native, machine


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--isa NAME` runs everything in this process with the kernels of one instruction set."""
    parser.addoption("--isa", default="", help="instruction set whose kernels run, such as portable")


def pytest_configure(config: pytest.Config) -> None:
    """Force the instruction set that was asked for."""
    if config.option.isa and not _native.force_isa(config.option.isa):
        raise pytest.UsageError(f"--isa {config.option.isa}: this processor does not have it")


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Set the number of threads; after the test it is what it was."""
    before = machine.thread_count()
    yield machine.set_thread_count
    machine.set_thread_count(before)
