"""Products have one thread of BLAS while any block needs it; pieces of work have one thread each."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from threadpoolctl import threadpool_info

from halfpint.kernels import machine


def blas_threads():
    return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]


def test_products_have_one_thread_until_the_last_block_is_left(threads):
    threads(2)
    before = blas_threads()
    first, second = machine.one_blas_thread(), machine.one_blas_thread()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert set(blas_threads()) == {1}
    second.__exit__(None, None, None)
    assert blas_threads() == before


@pytest.mark.bits
@pytest.mark.parametrize("count", [1, 2, 5])
def test_products_have_one_thread_in_whatever_thread_they_are_made(count, threads):
    """The first to set a limit, the main thread here, must not keep others from setting theirs."""
    threads(2)
    before = blas_threads()
    with machine.one_blas_thread():
        pass
    meeting = Barrier(count)

    def seen():
        with machine.one_blas_thread():
            meeting.wait()
            found = blas_threads()
            meeting.wait()
        return found

    with ThreadPoolExecutor(count) as executor:
        found = [future.result() for future in [executor.submit(seen) for _ in range(count)]]
    assert {number for each in found for number in each} == {1}
    assert blas_threads() == before


def test_pieces_have_one_thread_each_and_the_caller_keeps_its_own(threads):
    threads(3)
    assert machine.side_by_side([machine.thread_count] * 4) == [1] * 4
    assert machine.thread_count() == 3
    assert machine.side_by_side([lambda: machine.side_by_side([machine.thread_count] * 2)] * 2) == [[1, 1]] * 2
