"""Floats as they are."""

import numpy as np
import pytest

from halfpint import formats
from halfpint.errors import ShapeError
from halfpint.formats.plain import BF16, F16, F32, FORMATS
from ugly_weights import kinds, ordinary

HALF_ULP = {"f32": 0.0, "f16": 2.0**-11, "bf16": 2.0**-8}


@pytest.mark.parametrize("fmt", FORMATS, ids=lambda fmt: fmt.name)
@pytest.mark.parametrize(("kind", "weight"), kinds(), ids=[kind for kind, _ in kinds()])
def test_a_value_is_within_half_a_unit_in_the_last_place(fmt, kind, weight):
    quantized = formats.encode(weight, fmt)
    assert quantized.parts["values"].nbytes == fmt.stored_bytes(*weight.shape)
    error = np.abs(weight.astype(np.float64) - formats.decode(quantized))
    smallest = 2.0**-25 if fmt == F16 else 2.0**-134 if fmt == BF16 else 0.0
    assert (error <= np.maximum(np.abs(weight.astype(np.float64)) * HALF_ULP[fmt.name], smallest)).all()


@pytest.mark.parametrize(("fmt", "value", "advice"), [(F16, 65520.0, "bf16 or f32"), (BF16, 3.4e38, "in f32")])
def test_a_value_beyond_the_format_is_refused_with_advice(fmt, value, advice):
    weight = ordinary(2, 8)
    weight[0, 3] = -value
    with pytest.raises(ShapeError, match=advice):
        formats.encode(weight, fmt)


def test_ties_go_to_the_even_number():
    weight = np.array([[1 + 2.0**-8, 1 + 3 * 2.0**-8]], np.float32)
    assert formats.decode(formats.encode(weight, BF16)).tolist() == [[1.0, 1 + 2.0**-6]]
    assert formats.decode(formats.encode(weight, F32)).tolist() == weight.tolist()
