"""Every row of every declared tensor, once."""

import random

import pytest

from halfpint.checkpoints.coverage import RowCoverage
from halfpint.errors import UsageError, VerificationError


def test_rows_in_any_order_make_a_whole() -> None:
    coverage = RowCoverage({"a": 100, "empty": 0})
    starts = list(range(0, 100, 10))
    random.Random(1).shuffle(starts)
    for start in starts:
        assert not coverage.complete("a")
        coverage.add("a", start, 10)
    assert coverage.complete("a")
    coverage.check_complete()


def test_a_missing_row_is_told_by_name() -> None:
    coverage = RowCoverage({"a": 3, "b": 3})
    coverage.add("a", 0, 3)
    coverage.add("b", 0, 1)
    coverage.add("b", 2, 1)
    with pytest.raises(VerificationError, match="'b'"):
        coverage.check_complete()


@pytest.mark.parametrize(("start", "count"), [(0, 1), (3, 4), (4, 1), (2, 3), (-1, 1), (6, 5), (11, 0)])
def test_rows_that_came_before_or_do_not_exist_are_refused(start: int, count: int) -> None:
    coverage = RowCoverage({"a": 10})
    coverage.add("a", 0, 2)
    coverage.add("a", 4, 2)
    with pytest.raises(UsageError):
        coverage.add("a", start, count)


def test_an_undeclared_tensor_is_refused() -> None:
    with pytest.raises(UsageError, match="declared"):
        RowCoverage({}).add("a", 0, 1)
