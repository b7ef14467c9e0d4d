"""What every row of the table of formats has in common."""

import numpy as np
import pytest

from halfpint import formats
from halfpint.errors import HalfpintError, NonFiniteError, ShapeError, UnsupportedError
from ugly_weights import ordinary

FORMATS = pytest.mark.parametrize("fmt", formats.FORMATS.values(), ids=list(formats.FORMATS))


@FORMATS
def test_a_format_is_found_by_its_name(fmt):
    assert formats.by_name(fmt.name) == formats.by_name(fmt.name.upper()) == fmt
    assert type(fmt) in formats.CODECS


@FORMATS
def test_the_cost_per_weight_is_that_of_a_long_row(fmt):
    rows, columns = 4096, 4096
    assert fmt.refusal(rows, columns) is None
    stored = 8 * fmt.stored_bytes(rows, columns) / (rows * columns)
    assert stored == pytest.approx(fmt.bits_per_weight, rel=1e-3)
    assert fmt.bits <= fmt.bits_per_weight <= fmt.bits + 4.1


@FORMATS
def test_the_codes_are_a_function_of_the_weight_alone(fmt):
    weight = ordinary(2, 256)
    before = weight.copy()
    first, second = formats.encode(weight, fmt), formats.encode(np.asfortranarray(weight), fmt)
    assert np.array_equal(weight, before)
    for name, part in first.parts.items():
        assert np.array_equal(part.view(np.uint8), second.parts[name].view(np.uint8))


@FORMATS
def test_an_unfit_shape_is_refused_in_words_that_say_what_to_do(fmt):
    refusal = fmt.refusal(3, 33)
    if refusal is None:
        weight = ordinary(3, 33)
        assert formats.decode(formats.encode(weight, fmt)).shape == (3, 33)
    else:
        assert "33" in refusal
        with pytest.raises(HalfpintError, match=r"use|keep|choose"):
            formats.encode(ordinary(3, 33), fmt)


@pytest.mark.parametrize("name", ["int9", "q4_x", "", "int4-g33"])
def test_an_unknown_name_is_answered_with_near_ones(name):
    with pytest.raises(UnsupportedError, match="there are, among others: "):
        formats.by_name(name)


@pytest.mark.parametrize(
    ("importance", "error"),
    [
        (np.ones(31, np.float32), ShapeError),
        (np.ones((3, 32), np.float32), ShapeError),
        (np.full(32, np.nan, np.float32), NonFiniteError),
        (np.full(32, -1, np.float32), NonFiniteError),
    ],
)
def test_an_importance_that_makes_no_sense_is_refused(importance, error):
    with pytest.raises(error, match="importance"):
        formats.encode(ordinary(2, 32), formats.by_name("int4-g32"), importance)
