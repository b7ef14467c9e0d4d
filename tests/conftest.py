"""What all tests share."""

from collections.abc import Callable, Iterator

import pytest
from threadpoolctl import threadpool_info

from halfpint.kernels import _native, machine


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kernels", choices=[*machine.NEEDS], help="instruction set whose native kernels run the tests")


def pytest_configure(config: pytest.Config) -> None:
    forced = config.getoption("--kernels")
    if forced and not _native.force_isa(forced):
        raise pytest.UsageError(f"--kernels {forced}: this processor does not have it")


def pytest_report_header() -> str:
    cores = {library.get("architecture", "?") for library in threadpool_info() if library["user_api"] == "blas"}
    return f"native kernels: {machine.chosen()}; BLAS kernels: {', '.join(sorted(cores))}"


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Set the number of threads; after the test it is what it was."""
    before = machine.thread_count()
    yield machine.set_thread_count
    machine.set_thread_count(before)
