"""Products have one thread of BLAS while any block needs it; pieces of work have one thread each."""

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


def test_pieces_have_one_thread_each_and_the_caller_keeps_its_own(threads):
    threads(3)
    assert machine.side_by_side([machine.thread_count] * 4) == [1] * 4
    assert machine.thread_count() == 3
    assert machine.side_by_side([lambda: machine.side_by_side([machine.thread_count] * 2)] * 2) == [[1, 1]] * 2
