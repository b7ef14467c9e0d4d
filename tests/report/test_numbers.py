from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from halfpint.report import numbers


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (0, "0"),
        (1, "1.00"),
        (9.996, "10.0"),
        (99.96, "100"),
        (0.09996, "0.100"),
        (123456, "123456"),
        (2.4e9, "2.40e+09"),
        (-1e300, "-1.00e+300"),
        (0.000123, "0.000123"),
        (1.5e-9, "1.50e-09"),
        (-0.0456, "-0.0456"),
        (math.nan, "unknown"),
        (math.inf, "infinite"),
    ],
)
def test_three_significant_digits(value, written):
    assert numbers.significant(value) == written


@given(st.floats(min_value=1e-5, max_value=1e5))
def test_a_written_number_is_within_half_a_unit_of_its_third_digit(value):
    assert float(numbers.significant(value)) == pytest.approx(value, rel=0.00501)


@pytest.mark.parametrize(
    ("nbytes", "written"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1.00 kB"),
        (999_400, "999 kB"),
        (999_999, "1.00 MB"),
        (3_580_000_000, "3.58 GB"),
        (2.5e12, "2.50 TB"),
    ],
)
def test_sizes_are_decimal_and_never_written_with_four_digits(nbytes, written):
    assert numbers.size(nbytes) == written


@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        (0.4212, "0.42 s"),
        (41, "41.0 s"),
        (59.9, "59.9 s"),
        (125, "2 min 05 s"),
        (3599.9, "1 h 00 min"),
        (7620, "2 h 07 min"),
        (math.inf, "unknown"),
    ],
)
def test_durations(seconds, written):
    assert numbers.duration(seconds) == written


@pytest.mark.parametrize(
    ("mean", "stderr", "written"),
    [
        (0.012345, 0.00042, "0.01235 ± 0.00042"),
        (95.61, 0.31, "95.61 ± 0.31"),
        (1.0115, 0.0012, "1.0115 ± 0.0012"),
        (0, 0, "0 ± 0"),
        (0.1, math.nan, "0.100 ± unknown"),
        (123.4, 56.7, "123 ± 57"),
        (1e-12, 3e-13, "1.00e-12 ± 3.0e-13"),
        (5.0, 1e-9, "5.00000 ± 0.00000"),
        (3.21e88, 4.5e87, "3.21e+88 ± 4.5e+87"),
        (math.inf, math.inf, "infinite ± infinite"),
    ],
)
def test_a_mean_ends_where_its_doubt_begins(mean, stderr, written):
    assert numbers.with_error(mean, stderr) == written


def test_nothing_is_divided_by_zero():
    assert numbers.ratio(10, 0) == "-"
    assert numbers.ratio(10, 4) == "2.50x"


@pytest.mark.parametrize(
    ("before", "after", "written"),
    [
        (10, 4, "2.50x smaller"),
        (4, 10, "2.50x larger"),
        (7, 7, "the same size"),
        (1001, 1000, "the same size"),
        (7, 0, "-"),
        (0, 7, "-"),
    ],
)
def test_a_change_of_size_says_which_way(before, after, written):
    assert numbers.change(before, after) == written
