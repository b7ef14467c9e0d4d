"""Slices cover every row once, in order, and respect formats that are coded together."""

from itertools import pairwise

import pytest

from halfpint import formats
from halfpint.tensors import ROW_STEP, SLICE_WEIGHTS, row_slices

SHAPES = [(1, 1), (255, 64), (256, 64), (257, 64), (32000, 4096), (11008, 4096), (3, 50_000_000), (5,), (8, 300, 70)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_slices_cover_every_row_once_in_order(shape):
    slices = list(row_slices(shape, formats.by_name("int4-g128")))
    assert slices[0][0] == 0
    assert slices[-1][1] == shape[0]
    assert all(first[1] == second[0] for first, second in pairwise(slices))
    assert all(start % ROW_STEP == 0 for start, _ in slices)


def test_slices_stay_small():
    for start, end in row_slices((32000, 4096), None):
        assert (end - start) * 4096 <= SLICE_WEIGHTS


def test_a_format_that_needs_the_whole_tensor_gets_it():
    assert list(row_slices((32000, 4096), formats.by_name("nvfp4"))) == [(0, 32000)]


def test_a_scalar_is_one_slice():
    assert list(row_slices((), None)) == [(0, 1)]
