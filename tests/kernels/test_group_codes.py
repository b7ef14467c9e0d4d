"""Native coding of formats with a byte a code, in groups that share a scale: the bits of the references."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from halfpint import formats, kernels
from halfpint.errors import NonFiniteError, ShapeError
from halfpint.formats import float8, levels
from halfpint.formats.affine import Affine
from halfpint.kernels import _native
from halfpint.kernels.group_codes import FORMATS
from halfpint.tensors import QuantizedTensor
from ugly_weights import importances, kinds, ordinary

SOME = pytest.mark.parametrize(
    "fmt",
    [
        Affine(2, 16),
        Affine(3, 32, symmetric=False),
        Affine(4, 128),
        Affine(4, 0, scale_dtype="bf16"),
        Affine(4, 64, symmetric=False, scale_dtype="fp32"),
        Affine(5, 256, symmetric=False, scale_dtype="bf16"),
        Affine(8, 0, scale_dtype="fp32"),
        Affine(8, 32, symmetric=False),
        *levels.FORMATS,
        *float8.FORMATS,
    ],
    ids=lambda fmt: fmt.name,
)


def assert_same_bits(left, right):
    assert left.keys() == right.keys()
    for name, part in left.items():
        assert part.dtype == right[name].dtype
        assert np.array_equal(part.view(np.uint8), right[name].view(np.uint8)), name


@pytest.mark.parametrize("fmt", FORMATS, ids=lambda fmt: fmt.name)
def test_every_format_has_the_bytes_of_the_reference(fmt):
    assert kernels.is_native(fmt)
    weight = ordinary(5, 320)
    importance = importances(weight.shape)["columns"]
    assert_same_bits(formats.encode(weight, fmt).parts, kernels.encode(weight, fmt).parts)
    assert_same_bits(formats.encode(weight, fmt, importance).parts, kernels.encode(weight, fmt, importance).parts)


@SOME
def test_ugly_weights_have_the_bytes_of_the_reference_on_every_instruction_set(isa, fmt):
    weight = np.concatenate([weight for _, weight in kinds(rows=3, columns=192)])
    for importance in (None, *(importances(weight.shape)[name] for name in ("half zero", "elements", "minute"))):
        assert_same_bits(formats.encode(weight, fmt, importance).parts, kernels.encode(weight, fmt, importance).parts)


@SOME
@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (40, 3), (17, 129), (3, 1000)], ids=str)
def test_odd_shapes_have_the_bytes_of_the_reference(isa, fmt, shape):
    if fmt.refusal(*shape) is not None:
        shape = (shape[0], shape[1] * fmt.group_size)
    weight = ordinary(*shape)
    assert_same_bits(formats.encode(weight, fmt).parts, kernels.encode(weight, fmt).parts)


@SOME
@given(
    weight=hnp.arrays(np.float32, (2, 64), elements=st.floats(-6e4, 6e4, width=32)),
    importance=hnp.arrays(np.float32, (64,), elements=st.floats(0, 2.0**120, width=32)),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_weight_has_the_bytes_of_the_reference(fmt, weight, importance):
    assert_same_bits(formats.encode(weight, fmt, importance).parts, kernels.encode(weight, fmt, importance).parts)


@SOME
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16], ids=["f16", "bf16"])
def test_16_bit_floats_are_coded_as_if_widened_first(isa, fmt, dtype):
    weight = ordinary(9, 704).astype(dtype)
    assert_same_bits(formats.encode(weight.astype(np.float32), fmt).parts, kernels.encode(weight, fmt).parts)


@SOME
def test_the_number_of_threads_changes_nothing(threads, fmt):
    weight = ordinary(600, 544)
    threads(1)
    alone = kernels.encode(weight, fmt)
    decoded = kernels.decode(alone)
    for count in (2, 5):
        threads(count)
        assert_same_bits(alone.parts, kernels.encode(weight, fmt).parts)
        assert np.array_equal(decoded, kernels.decode(alone))


def test_views_that_are_not_contiguous_are_coded_as_their_copies():
    weight = ordinary(40, 512)
    fmt = Affine(4, 32)
    assert_same_bits(kernels.encode(weight[::2, ::2].copy(), fmt).parts, kernels.encode(weight[::2, ::2], fmt).parts)
    assert_same_bits(kernels.encode(weight.T.copy(), fmt).parts, kernels.encode(weight.T, fmt).parts)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16], ids=["f32", "f16", "bf16"])
def test_what_is_not_finite_is_refused_at_its_index(value, dtype):
    weight = ordinary(4, 64).astype(dtype)
    weight[2, 17] = value
    with pytest.raises(NonFiniteError, match=r"\[2, 17\]"):
        kernels.encode(weight, Affine(4, 32))


@pytest.mark.parametrize("fmt", [Affine(4, 32), Affine(4, 32, symmetric=False)], ids=lambda fmt: fmt.name)
def test_a_weight_beyond_the_scale_is_refused_as_by_the_reference(fmt):
    weight = ordinary(4, 64)
    weight[2, 17] = 5e5
    assert_same_bits(
        formats.encode(weight / np.float32(2), fmt).parts, kernels.encode(weight / np.float32(2), fmt).parts
    )
    weight[2, 17] = 1e6
    with pytest.raises(ShapeError, match=r"1e\+06 needs a scale beyond fp16"):
        kernels.encode(weight, fmt)


@pytest.mark.parametrize("bad", [np.nan, -1.0])
def test_an_importance_that_is_no_weight_is_refused(bad):
    importance = np.ones(64, np.float32)
    importance[3] = bad
    with pytest.raises(NonFiniteError, match="importance"):
        kernels.encode(ordinary(2, 64), Affine(4, 32), importance)
    with pytest.raises(ShapeError, match="importance of shape"):
        kernels.encode(ordinary(2, 64), Affine(4, 32), np.ones(63, np.float32))


@pytest.mark.parametrize("fmt", FORMATS, ids=lambda fmt: fmt.name)
@pytest.mark.parametrize("columns", [384, 172])
def test_any_codes_decode_to_the_bits_of_the_reference(fmt, columns):
    rows = 150
    columns -= 0 if fmt.refusal(rows, columns) is None else columns % fmt.group_size
    rng = np.random.default_rng(1)
    parts = {}
    for name, part in fmt.parts(rows, columns).items():
        if name in ("codes", "zero_points"):
            low, high = (fmt.lowest, fmt.highest) if isinstance(fmt, Affine) else (0, 15)
            drawn = rng.integers(low, high, part.shape, np.int16, endpoint=True).astype(np.uint8)
            if part.dtype == float8.CODES:  # every number but the two NaN
                drawn = (rng.integers(0, 127, part.shape) | rng.integers(0, 2, part.shape) << 7).astype(np.uint8)
            parts[name] = drawn.view(part.dtype)
        elif part.dtype == np.uint8:
            parts[name] = rng.integers(60, 190, part.shape).astype(np.uint8)
        else:
            parts[name] = rng.standard_normal(part.shape).astype(part.dtype)
    quantized = QuantizedTensor(fmt, (rows, columns), parts)
    assert np.array_equal(formats.decode(quantized).view(np.uint32), kernels.decode(quantized).view(np.uint32))


def test_shapes_that_do_not_belong_together_stop_at_the_border():
    def search(starts=2, steps=3, kind=0, group=(1, 32)):
        grid = np.ones((1, starts), np.float32), np.ones((0, steps), np.float32)
        return _native.GroupSearch(group, (0, -8, 7), (kind, 2.0**-24, 65504), 0, *grid, 0)

    for arguments in ({"starts": 3}, {"steps": 2}, {"kind": 5}, {"group": (1, 0)}):
        with pytest.raises(ValueError, match=r"starts|scales|group"):
            search(**arguments)
    weight, codes = np.zeros((2, 64), np.float32), np.zeros((2, 64), np.uint8)
    scales, short = np.zeros((2, 2), np.uint16), np.zeros((2, 1), np.uint16)
    _native.encode_groups(search(), weight, False, None, 1, codes, scales, None)
    for arguments in (
        (weight, False, None, 1, codes[:1], scales, None),
        (weight, False, None, 1, codes, short, None),
        (weight, False, None, 1, codes, scales.astype(np.float32), None),
        (weight, False, None, 1, codes, scales, codes[:, :2].copy()),
        (weight, False, np.ones((1, 63), np.float32), 1, codes, scales, None),
        (weight.astype(np.float64), False, None, 1, codes, scales, None),
    ):
        with pytest.raises(ValueError, match=r"must|have|type"):
            _native.encode_groups(search(), *arguments)
    out, floats, values = np.zeros((2, 64), np.float32), np.zeros((2, 2), np.float32), np.zeros(256, np.float32)
    _native.decode_codes(codes, values, floats, None, (1, 32), out)
    for arguments in (
        (codes, values[:255], floats, None, (1, 32), out),
        (codes, values, floats, None, (1, 16), out),
        (codes, values, floats, None, (0, 32), out),
        (codes, values, floats, floats[:1], (1, 32), out),
        (codes, values, floats, None, (1, 32), out[:1]),
    ):
        with pytest.raises(ValueError, match=r"value|shape|belongs"):
            _native.decode_codes(*arguments)
