"""Integers in groups: the laws of the format, and the numbers that compressed-tensors makes of its parts."""

import numpy as np
import pytest
import torch
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization.lifecycle.forward import dequantize
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from halfpint import formats
from halfpint.errors import NonFiniteError, ShapeError
from halfpint.formats import search
from halfpint.formats.affine import FORMATS, GROUP_SIZES, Affine
from ugly_weights import importances, kinds, ordinary

KINDS = pytest.mark.parametrize(("kind", "weight"), kinds(), ids=[kind for kind, _ in kinds()])
SYMMETRIC = pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])
BITS = pytest.mark.parametrize("bits", range(2, 9))
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
    ],
    ids=lambda fmt: fmt.name,
)


def spread(per_group, fmt, columns):
    return np.repeat(per_group.astype(np.float64), fmt.group_size or columns, axis=1)[:, :columns]


def weighted_error(weight, decoded, importance=None):
    h = np.ones_like(weight) if importance is None else np.broadcast_to(importance, weight.shape)
    return (h.astype(np.float64) * (weight.astype(np.float64) - decoded) ** 2).sum()


def plain_rounding(weight, fmt):
    """What rounding to the full range of each group would decode to, scales stored as the format stores them."""
    size = fmt.group_size or weight.shape[1]
    x = search.to_groups(weight, size)
    if fmt.symmetric:
        scale, zero = np.abs(x).max(axis=0) / np.float32(fmt.highest), np.float32(0)
    else:
        low, high = np.minimum(x.min(axis=0), 0), np.maximum(x.max(axis=0), 0)
        scale = (high - low) / np.float32(fmt.highest)
        zero = np.rint(-low / np.where(scale == 0, 1, scale))
    stored = scale.astype(fmt.scale_type).astype(np.float32)
    safe = np.where(stored == 0, 1, stored)
    decoded = (np.clip(np.rint(x / safe), fmt.lowest - zero, fmt.highest - zero)) * stored
    return search.from_groups(decoded, *weight.shape)


@pytest.mark.parametrize("fmt", FORMATS, ids=lambda fmt: fmt.name)
def test_every_format_of_the_table_codes_and_decodes_in_the_parts_it_declares(fmt):
    weight = ordinary(3, 172)
    quantized = formats.encode(weight, fmt)
    declared = {name: (part.shape, part.dtype) for name, part in fmt.parts(3, 172).items()}
    assert {name: (part.shape, part.dtype) for name, part in quantized.parts.items()} == declared
    decoded = formats.decode(quantized)
    assert decoded.shape == weight.shape
    assert decoded.dtype == np.float32
    assert quantized.parts["codes"].min() >= fmt.lowest
    assert quantized.parts["codes"].max() <= fmt.highest
    assert weighted_error(weight, decoded) < weighted_error(weight, 0)


@SOME
@KINDS
def test_no_weight_within_reach_is_further_than_half_a_step(fmt, kind, weight):
    quantized = formats.encode(weight, fmt)
    decoded = formats.decode(quantized)
    step = np.abs(spread(quantized.parts["scales"], fmt, weight.shape[1]))
    inside = (quantized.parts["codes"] > fmt.lowest) & (quantized.parts["codes"] < fmt.highest)
    error = np.abs(weight.astype(np.float64) - decoded)
    assert (error[inside] <= step[inside] * (0.5 + 1e-4)).all()


@SOME
@KINDS
def test_clipping_is_never_worse_than_rounding_to_the_full_range(fmt, kind, weight):
    decoded = formats.decode(formats.encode(weight, fmt))
    plain = weighted_error(weight, plain_rounding(weight, fmt))
    # Scales end at float32's smallest normal number, so denormal weights may become 0.
    assert weighted_error(weight, decoded) <= plain * (1 + 1e-5) + weight.size * 2.0**-254


@SOME
@pytest.mark.parametrize("name", ["columns", "elements", "half zero", "huge", "minute"])
def test_importance_moves_the_error_to_where_it_matters_less(fmt, name):
    weight = ordinary(6, 172, seed=5)
    importance = importances(weight.shape)[name]
    aware = formats.decode(formats.encode(weight, fmt, importance))
    blind = formats.decode(formats.encode(weight, fmt))
    assert weighted_error(weight, aware, importance) <= weighted_error(weight, blind, importance) * (1 + 1e-5)


@SOME
@KINDS
@pytest.mark.parametrize("name", ["none", "columns", "half zero"])
def test_a_zero_weight_is_exact(fmt, kind, weight, name):
    weight = weight.copy()
    weight[:, ::7] = 0
    decoded = formats.decode(formats.encode(weight, fmt, importances(weight.shape)[name]))
    assert (decoded[:, ::7] == 0).all()


@SOME
def test_a_group_of_zeros_has_scale_one(fmt):
    parts = formats.encode(np.zeros((2, 172), np.float32), fmt).parts
    assert (parts["scales"] == 1).all()
    assert not parts["codes"].any()
    assert fmt.symmetric or not parts["zero_points"].any()


@SOME
@KINDS
def test_scales_are_finite_and_safe_to_divide_by(fmt, kind, weight):
    scales = formats.encode(weight, fmt).parts["scales"].astype(np.float32)
    with np.errstate(all="raise"):
        assert np.isfinite(np.float32(1) / scales).all()


@SOME
def test_weights_too_small_for_the_scale_do_not_become_larger(fmt):
    weight = ordinary(4, 172) * np.float32(1e-7)  # below the smallest float16 subnormal, 6e-8
    decoded = formats.decode(formats.encode(weight, fmt))
    assert weighted_error(weight, decoded) <= weighted_error(weight, 0)


@SOME
def test_without_importance_or_with_equal_or_no_importance_at_all_the_codes_are_the_same(fmt):
    weight = ordinary(5, 172)
    plain = formats.encode(weight, fmt).parts
    for importance in (np.full(172, 4.0, np.float32), np.zeros(172, np.float32), np.ones((5, 172), np.float32)):
        other = formats.encode(weight, fmt, importance).parts
        assert all(np.array_equal(plain[name], other[name]) for name in plain)


@SOME
@pytest.mark.parametrize("name", ["none", "columns", "elements", "half zero"])
def test_a_slice_of_rows_has_the_codes_of_the_whole(fmt, name):
    weight = ordinary(7, 172)
    importance = importances(weight.shape)[name]
    whole = formats.encode(weight, fmt, importance).parts
    sliced = importance[2:5] if importance is not None and importance.ndim == 2 else importance
    part = formats.encode(weight[2:5], fmt, sliced).parts
    assert all(np.array_equal(whole[key][2:5], part[key]) for key in whole)


@SOME
@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (9, 1), (2, 31), (2, 129)], ids=str)
def test_small_and_odd_shapes_decode_within_their_range(fmt, shape):
    weight = ordinary(*shape)
    decoded = formats.decode(formats.encode(weight, fmt))
    assert decoded.shape == shape
    assert weighted_error(weight, decoded) <= weighted_error(weight, plain_rounding(weight, fmt)) * (1 + 1e-5)


@pytest.mark.parametrize("size", [32, 64, 128])
@SYMMETRIC
def test_a_short_last_group_is_coded_as_if_it_stood_alone(size, symmetric):
    fmt = Affine(4, size, symmetric)
    weight = ordinary(3, 172)
    start = 172 - 172 % size
    whole, tail = formats.encode(weight, fmt).parts, formats.encode(weight[:, start:], fmt).parts
    assert np.array_equal(whole["codes"][:, start:], tail["codes"])
    assert np.array_equal(whole["scales"][:, -1:], tail["scales"])


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@SYMMETRIC
@given(exponent=st.integers(-60, 60))
@settings(max_examples=10, deadline=None)
def test_a_power_of_two_moves_into_the_scales(bits, symmetric, exponent):
    fmt = Affine(bits, 32, symmetric, "fp32")
    weight = ordinary(2, 96)
    factor = np.float32(2.0**exponent)
    plain, moved = formats.encode(weight, fmt).parts, formats.encode(weight * factor, fmt).parts
    assert np.array_equal(plain["codes"], moved["codes"])
    assert np.array_equal(plain["scales"] * factor, moved["scales"])


@pytest.mark.parametrize("fmt", [Affine(2, 16), Affine(4, 32, symmetric=False), Affine(8, 0)], ids=lambda fmt: fmt.name)
@given(weight=hnp.arrays(np.float32, (2, 40), elements=st.floats(-6e4, 6e4, width=32)))
@settings(max_examples=60, deadline=None)
def test_any_finite_weight_is_coded_no_worse_than_by_plain_rounding(fmt, weight):
    decoded = formats.decode(formats.encode(weight, fmt))
    assert np.isfinite(decoded).all()
    assert weighted_error(weight, decoded) <= weighted_error(weight, plain_rounding(weight, fmt)) * (1 + 1e-4) + 1e-12


@SYMMETRIC
def test_a_weight_beyond_the_scale_is_refused_with_advice(symmetric):
    weight = ordinary(2, 64)
    weight[1, 3] = 3e6
    fmt = Affine(4, 32, symmetric)
    with pytest.raises(ShapeError, match=r"3e\+06 needs a scale beyond fp16; use int4-g32(-asym)?-bf16"):
        formats.encode(weight, fmt)
    decoded = formats.decode(formats.encode(weight, Affine(4, 32, symmetric, "bf16")))
    assert abs(decoded[1, 3] - 3e6) < 3e5


@pytest.mark.parametrize("scale_dtype", ["bf16", "fp32"])
@SYMMETRIC
def test_huge_weights_are_coded_as_long_as_they_decode_to_finite_numbers(scale_dtype, symmetric):
    weight = np.array([[4e37, -4e37, 1e37, 0.0]], np.float32)
    decoded = formats.decode(formats.encode(weight, Affine(4, 0, symmetric, scale_dtype)))
    assert abs(float(decoded[0, 1]) / -4e37 - 1) < 0.1
    with pytest.raises(ShapeError, match=f"beyond {scale_dtype}; keep this tensor in bf16"):
        formats.encode(weight * np.float32(4), Affine(4, 0, symmetric, scale_dtype))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused_at_its_index(value):
    weight = ordinary(4, 64)
    weight[2, 17] = value
    with pytest.raises(NonFiniteError, match=r"\[2, 17\]"):
        formats.encode(weight, Affine(4, 32))


def test_an_empty_tensor_is_refused():
    with pytest.raises(ShapeError, match="no weights"):
        formats.encode(np.zeros((0, 8), np.float32), Affine(4, 32))


@BITS
@pytest.mark.parametrize("size", [32, 128, 0])
@SYMMETRIC
def test_the_search_is_near_the_best_of_four_hundred_scales(bits, size, symmetric):
    weight = np.random.default_rng(bits).standard_normal((40, 256)).astype(np.float32)
    fmt = Affine(bits, size, symmetric)
    dense = np.full(40 * fmt.groups(256), np.inf)
    x = search.to_groups(weight, size or 256)
    widest = np.abs(x).max(axis=0) / -fmt.lowest if symmetric else (x.max(axis=0) - x.min(axis=0)) / fmt.highest
    offsets = (0,) if symmetric else (-1, 0, 1)
    for ratio in np.linspace(0.3 if bits < 5 else 0.7, 1.15, 400 // len(offsets)):
        scale = (widest * np.float32(ratio)).astype(np.float16).astype(np.float32)
        for sign, offset in ((s, o) for s in ((1, -1) if symmetric else (1,)) for o in offsets):
            centre = 0 if symmetric else np.rint(-np.minimum(x.min(axis=0), 0) * np.float32(ratio) / scale)
            zero = np.clip(centre + offset, fmt.lowest, fmt.highest)
            levels = np.clip(np.rint(x / (scale * sign)), fmt.lowest - zero, fmt.highest - zero)
            dense = np.minimum(dense, ((x - levels * scale * sign) ** 2).sum(axis=0))
    found = weighted_error(weight, formats.decode(formats.encode(weight, fmt)))
    assert found <= dense.sum() * (1.02 if bits < 6 else 1.10)


@BITS
@pytest.mark.parametrize("size", [32, 0])
@pytest.mark.parametrize("scale_dtype", ["fp16", "bf16", "fp32"])
@SYMMETRIC
def test_compressed_tensors_dequantizes_the_same_numbers(bits, size, symmetric, scale_dtype):
    fmt = Affine(bits, size, symmetric, scale_dtype)
    weight = ordinary(4, 128)
    quantized = formats.encode(weight, fmt)
    parts = quantized.parts
    # There every code is signed: an unsigned one and its zero point are both moved down by half the range.
    offset = 0 if symmetric else 1 << (bits - 1)
    scales = torch.from_numpy(parts["scales"].astype(np.float32))
    zero_points = (
        None if symmetric else torch.from_numpy(parts["zero_points"].astype(np.int8 if bits < 8 else np.int16))
    )
    args = QuantizationArgs(
        num_bits=bits,
        type="int",
        symmetric=symmetric,
        strategy="group" if size else "channel",
        group_size=size or None,
    )
    theirs = dequantize(
        torch.from_numpy(parts["codes"].astype(np.int16) - offset),
        scales,
        None if zero_points is None else zero_points.to(torch.int16) - offset,
        args,
    )
    assert np.array_equal(theirs.numpy(), formats.decode(quantized))


@BITS
@pytest.mark.parametrize("columns", [128, 172, 40])
@pytest.mark.parametrize("size", [32, 0])
@SYMMETRIC
def test_the_size_is_that_of_compressed_tensors_files(bits, columns, size, symmetric):
    rows = 10
    fmt = Affine(bits, size, symmetric)
    parts = formats.encode(ordinary(rows, columns), fmt).parts
    offset = 0 if symmetric else 1 << (bits - 1)
    packed = pack_to_int32(torch.from_numpy((parts["codes"].astype(np.int16) - offset).astype(np.int8)), bits)
    stored = packed.numpy().nbytes + parts["scales"].nbytes
    if not symmetric:
        zero_points = torch.from_numpy((parts["zero_points"].astype(np.int16) - offset).astype(np.int8))
        stored += pack_to_int32(zero_points, bits, packed_dim=0).numpy().nbytes
    assert fmt.stored_bytes(rows, columns) == stored


def test_names_are_unique_and_say_everything():
    assert len({fmt.name for fmt in FORMATS}) == len(FORMATS) == 7 * len(GROUP_SIZES) * 2 * 3
    assert Affine(4, 128).name == "int4-g128"
    assert Affine(8, 0, symmetric=False, scale_dtype="bf16").name == "int8-asym-bf16"
    assert Affine(4, 128).bits_per_weight == 4.125
    assert Affine(4, 128, symmetric=False).bits_per_weight == 4 + 20 / 128
