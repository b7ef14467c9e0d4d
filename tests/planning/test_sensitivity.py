"""Costs from what was measured: laws that hold whatever the model."""

import math

import pytest

from halfpint.formats import by_name
from halfpint.planning.sensitivity import (
    Sensitivity,
    TensorErrors,
    Unit,
    bell_error,
    error_of,
    forecast_kl,
    low_format,
    measured_costs,
)

LOW = by_name("q3_k")
FLOOR = 1e-6


def tensor(low_error, gain=0.5, **errors):
    return TensorErrors(LOW, {"q3_k": low_error, **errors}, gain)


def sensed(first_kl=0.02, second_kl=0.001, shift=1.0):
    tensors = {
        "a": tensor(0.02 * shift, q4_k=0.004, q6_k=0.0002),
        "b": tensor(0.01, q4_k=0.003, q6_k=0.0001),
        "c": tensor(0.03, gain=1.0, q4_k=0.005, q6_k=0.0003),
    }
    return Sensitivity((Unit(("a", "b"), first_kl), Unit(("c",), second_kl)), tensors, FLOOR, 1024)


def test_the_low_format_costs_what_was_measured():
    cost_of = measured_costs(sensed())
    # The solver's gain is counted: a and b are solved to half the error that was measured.
    assert cost_of("a", LOW) + cost_of("b", LOW) == pytest.approx(0.5 * (0.02 - FLOOR), rel=1e-3)
    assert cost_of("c", LOW) == pytest.approx(0.001 - FLOOR, rel=1e-3)


@pytest.mark.parametrize("name", ["a", "b", "c"])
def test_costs_go_with_errors_and_a_copy_costs_nothing(name):
    found = sensed()
    cost_of = measured_costs(found)
    for fmt in ("q4_k", "q6_k"):
        ratio = found.tensors[name].errors[fmt] / found.tensors[name].errors["q3_k"]
        assert cost_of(name, by_name(fmt)) / cost_of(name, LOW) == pytest.approx(ratio, rel=2e-3)
    assert cost_of(name, None) == 0
    assert cost_of("a tensor that was not measured", LOW) == 0


def test_what_is_measured_together_is_shared_out_by_errors():
    cost_of = measured_costs(sensed())
    assert cost_of("a", LOW) / cost_of("b", LOW) == pytest.approx(2, rel=1e-3)


def test_below_the_floor_a_tensor_still_costs_something():
    for kl in (0.0, FLOOR / 2, -FLOOR):
        cost = measured_costs(sensed(second_kl=kl))("c", LOW)
        # At most the least share of the middle of the rates, which are 0.67 and 0 here.
        assert 0 < cost <= 0.05 * 0.67 * 0.03


def test_the_last_bits_of_a_sum_do_not_decide():
    one, other = measured_costs(sensed()), measured_costs(sensed(shift=1 + 1e-9))
    for fmt in ("q3_k", "q4_k", "q6_k"):
        assert one("a", by_name(fmt)) == other("a", by_name(fmt))


def test_a_format_that_was_not_measured_is_scaled_by_what_it_does_to_a_bell_curve():
    found = tensor(0.02)
    for name in ("q2_k", "q5_k", "q8_0"):
        expected = 0.02 * bell_error(by_name(name)) / bell_error(LOW)
        assert error_of(found, by_name(name)) == pytest.approx(expected)


def test_a_forecast_adds_up():
    cost_of = measured_costs(sensed())
    chosen = [("a", LOW), ("b", by_name("q6_k")), ("c", None)]
    total = cost_of("a", LOW) + cost_of("b", by_name("q6_k"))
    assert forecast_kl(cost_of, chosen) == pytest.approx(total)
    assert forecast_kl(cost_of, chosen, 1.5) == pytest.approx(1.5 * total)
    assert math.isfinite(total)


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (3, 7), (128, 32), (64, 255), (64, 256), (5, 768)])
def test_every_matrix_has_a_low_format(rows, columns):
    fmt = low_format(rows, columns)
    assert fmt.bits == 3
    assert fmt.refusal(rows, columns) is None
