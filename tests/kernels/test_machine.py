"""Narrow products get one thread of BLAS, wide ones those that were asked for; afterwards all is as it was."""

import pytest
from threadpoolctl import threadpool_info

from halfpint.kernels import machine


def blas_threads():
    return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]


@pytest.mark.parametrize(("columns", "expected"), [(64, 1), (1023, 1), (1024, 2), (8192, 2)])
def test_products_get_as_many_threads_as_pay(columns, expected, threads):
    before = blas_threads()
    threads(2)
    with machine.product_threads(columns):
        assert set(blas_threads()) == {expected}
    assert blas_threads() == before
