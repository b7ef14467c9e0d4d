"""Native encoders and decoders: the bytes of the references, on every instruction set and any number of threads."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from halfpint import formats, kernels
from halfpint.errors import NonFiniteError, ShapeError
from halfpint.formats import ggml
from halfpint.tensors import QuantizedTensor

NATIVE = pytest.mark.parametrize("fmt", ggml.FORMATS, ids=lambda fmt: fmt.name)


def ugly_weight():
    """Rows of every kind: heavy tails, outliers, one sign, offsets, constants, zeros, denormals, tiny, large."""
    rng = np.random.default_rng(11)
    weight = rng.standard_t(3, (14, 1280)).astype(np.float32)
    weight[1] *= np.float32(0.02)
    weight[2, ::301] *= np.float32(1e4)
    weight[3] = np.abs(weight[3])
    weight[4] = -np.abs(weight[4])
    weight[5] = weight[5] * np.float32(0.01) + 3
    weight[6] = np.float32(-0.7)
    weight[7] = 0
    weight[8] *= np.float32(1e-40)
    weight[9] *= np.float32(3e-8)
    weight[10] *= np.float32(3e-6)
    weight[11] *= np.float32(1e3)
    weight[12] = rng.integers(-1, 2, 1280)
    weight[13, :700] = 0
    return weight


def importances(weight):
    rng = np.random.default_rng(12)
    columns = np.exp(3 * rng.standard_normal(weight.shape[1])).astype(np.float32)
    columns[:300] = 0
    elements = rng.random(weight.shape).astype(np.float32)
    elements[elements < 0.3] = 0
    return {"none": None, "columns": columns, "elements": elements}


def blocks_of(weight, fmt, importance=None):
    return kernels.encode(weight, fmt, importance).parts["blocks"]


def random_fields(fmt, count):
    rng = np.random.default_rng(2)
    halves = rng.integers(0, 0x7C00, (2, count), np.uint16) | rng.integers(0, 2, (2, count), np.uint16) << 15
    scale, minimum = halves.view(np.float16)
    nested = fmt.groups > 1
    low, high = fmt.subscale_range
    return ggml.BlockFields(
        rng.integers(0, 2**fmt.bits, (count, fmt.block_columns), np.uint8),
        scale,
        minimum if fmt.has_minimum else None,
        rng.integers(low, high + 1, (count, fmt.groups), np.int32) if nested else None,
        rng.integers(low, high + 1, (count, fmt.groups), np.int32) if nested and fmt.has_minimum else None,
    )


@NATIVE
@pytest.mark.parametrize("kind", ["none", "columns", "elements"])
def test_native_bytes_are_those_of_the_reference(fmt, kind, isa):
    weight = ugly_weight()
    importance = importances(weight)[kind]
    expected = formats.encode(weight, fmt, importance).parts["blocks"]
    assert np.array_equal(blocks_of(weight, fmt, importance), expected)


@NATIVE
def test_the_number_of_threads_changes_no_byte(fmt, threads):
    rng = np.random.default_rng(1)
    weight = rng.standard_normal((67, 1280)).astype(np.float32)
    importance = rng.random(1280).astype(np.float32)
    encoded = []
    for count in (1, 2, 3):
        threads(count)
        encoded.append(blocks_of(weight, fmt, importance))
    assert np.array_equal(encoded[0], encoded[1])
    assert np.array_equal(encoded[0], encoded[2])


@NATIVE
def test_native_decoding_gives_the_bits_of_the_reference(fmt, isa, threads):
    fields = random_fields(fmt, 97 * 1792 // fmt.block_columns)
    blocks = ggml.pack(fields, fmt).reshape(97, -1, fmt.block_bytes)
    quantized = QuantizedTensor(fmt, (97, 1792), {"blocks": blocks})
    expected = formats.decode(quantized)
    for count in (1, 3):
        threads(count)
        assert kernels.decode(quantized).tobytes() == expected.tobytes()


@NATIVE
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    weight=arrays.arrays(np.float32, (1, 256), elements=st.floats(-4, 4, width=32)),
    importance=arrays.arrays(np.float32, 256, elements=st.floats(0, 100, width=32)) | st.none(),
)
def test_any_weight_has_the_bytes_of_the_reference_and_no_more_error_than_zero(fmt, weight, importance):
    quantized = kernels.encode(weight, fmt, importance)
    expected = formats.encode(weight, fmt, importance)
    assert np.array_equal(quantized.parts["blocks"], expected.parts["blocks"])
    decoded = kernels.decode(quantized)
    assert decoded.tobytes() == formats.decode(expected).tobytes()
    weights = np.ones(256) if importance is None else importance.astype(np.float64)
    error = (weights * (weight.astype(np.float64) - decoded) ** 2).sum()
    # Weights below 2**-30 of a block's largest count as that much, and errors are compared in float32.
    slack = 256 * weights.max() * 2.0**-30 * 16 + 1e-30
    assert error <= (weights * weight.astype(np.float64) ** 2).sum() * (1 + 1e-5) + slack


@NATIVE
@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16], ids=["bf16", "f16"])
def test_sixteen_bit_weights_are_widened_exactly(fmt, dtype, isa):
    weight = (ugly_weight() / 256).astype(dtype)
    assert np.array_equal(blocks_of(weight, fmt), blocks_of(weight.astype(np.float32), fmt))


@NATIVE
def test_slices_of_arrays_are_encoded_as_copies_are(fmt):
    weight = np.asfortranarray(ugly_weight())
    assert np.array_equal(blocks_of(weight[::2, 256:768], fmt), blocks_of(weight[::2, 256:768].copy(), fmt))


@NATIVE
def test_a_tensor_without_rows_has_no_blocks(fmt):
    quantized = kernels.encode(np.empty((0, 256), np.float32), fmt)
    assert quantized.parts["blocks"].size == 0
    assert kernels.decode(quantized).shape == (0, 256)


@NATIVE
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16, np.float16], ids=["f32", "bf16", "f16"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_weight_that_is_no_number_is_refused_where_it_is(fmt, dtype, bad):
    weight = np.ones((3, 256), dtype)
    weight[2, 5] = bad
    with pytest.raises(NonFiniteError, match=r"index \[2, 5\]"):
        kernels.encode(weight, fmt)


@NATIVE
def test_shapes_and_magnitudes_are_refused_as_by_the_reference(fmt):
    with pytest.raises(ShapeError, match="blocks of"):
        kernels.encode(np.ones((2, 48), np.float32), fmt)
    with pytest.raises(ShapeError, match="bf16"):
        kernels.encode(np.full((2, 256), 1e30, np.float32), fmt)
    with pytest.raises(ShapeError, match="one per column"):
        kernels.encode(np.ones((2, 256), np.float32), fmt, np.ones(2, np.float32))


@pytest.mark.parametrize("fmt", formats.FORMATS.values(), ids=lambda fmt: fmt.name)
def test_every_format_goes_through_and_says_how(fmt):
    weight = np.random.default_rng(3).standard_normal((128, 256)).astype(np.float32)
    quantized = kernels.encode(weight, fmt)
    expected = formats.encode(weight, fmt)
    for name, part in expected.parts.items():
        assert np.array_equal(quantized.parts[name], part)
    assert np.array_equal(kernels.decode(quantized), formats.decode(expected))
    assert ("native" in kernels.explain(fmt)) == kernels.is_native(fmt) == (fmt.name in kernels.NATIVE_FORMATS)
