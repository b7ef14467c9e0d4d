"""nf4, mxfp4 and nvfp4: the laws of the formats, and the numbers that other people's decoders make of their parts."""

import gguf
import ml_dtypes
import numpy as np
import pytest
import torch
from bitsandbytes import functional
from compressed_tensors.compressors.mx_utils import decompress_mx_scale
from compressed_tensors.compressors.nvfp4.helpers import pack_fp4_to_uint8, unpack_fp4_from_uint8
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from halfpint import formats
from halfpint.errors import ShapeError
from halfpint.formats.levels import E2M1_LEVELS, FORMATS, MXFP4, NF4, NF4_LEVELS, NVFP4, nearest_level
from ugly_weights import importances, kinds, ordinary

ALL = pytest.mark.parametrize("fmt", FORMATS, ids=lambda fmt: fmt.name)
KINDS = pytest.mark.parametrize(("kind", "weight"), kinds(columns=192), ids=[kind for kind, _ in kinds(columns=192)])


def group_scales(quantized):
    """float64 scale of every column, [rows, columns]."""
    fmt, parts = quantized.format, quantized.parts
    scales = parts["scales"].astype(np.float32)
    if fmt == MXFP4:
        scales = np.exp2(scales.astype(np.float64) - 127)
    if fmt == NVFP4:
        scales = scales / parts["global_scale"]
    return np.repeat(scales, fmt.group_size, axis=1)[:, : quantized.shape[1]].astype(np.float64)


def squared_error(weight, decoded):
    return ((weight.astype(np.float64) - decoded) ** 2).sum()


def pack_nibbles(codes):
    return codes[:, 0::2] | (codes[:, 1::2] << 4)


@ALL
@KINDS
def test_a_weight_decodes_from_the_declared_parts_to_the_nearest_level(fmt, kind, weight):
    quantized = formats.encode(weight, fmt)
    declared = {name: (part.shape, part.dtype) for name, part in fmt.parts(*weight.shape).items()}
    assert {name: (part.shape, part.dtype) for name, part in quantized.parts.items()} == declared
    assert fmt.stored_bytes(*weight.shape) == sum(part.nbytes for part in quantized.parts.values()) - weight.size // 2
    decoded = formats.decode(quantized)
    scales = group_scales(quantized)
    nearest = np.abs(weight[..., None] / scales[..., None] - fmt.table).min(axis=-1)
    assert np.isfinite(decoded).all()
    assert (np.abs(weight.astype(np.float64) - decoded) <= scales * (nearest + 1e-4)).all()


@ALL
@KINDS
@pytest.mark.parametrize("name", ["none", "columns", "half zero", "all zero"])
def test_a_zero_weight_is_exact(fmt, kind, weight, name):
    weight = weight.copy()
    weight[:, ::7] = 0
    quantized = formats.encode(weight, fmt, importances(weight.shape)[name])
    assert (formats.decode(quantized)[:, ::7] == 0).all()


@ALL
def test_no_code_stands_for_negative_zero(fmt):
    weight = ordinary(8, 192) * np.float32(0.01)
    weight[:, ::16] = 1.0
    codes = formats.encode(weight, fmt).parts["codes"]
    assert not np.signbit(fmt.table[codes][fmt.table[codes] == 0]).any()


@ALL
@pytest.mark.parametrize("name", ["columns", "elements", "huge", "minute"])
def test_importance_moves_the_error_to_where_it_matters_less(fmt, name):
    weight = ordinary(6, 192)
    importance = importances(weight.shape)[name]
    h = np.broadcast_to(importance, weight.shape).astype(np.float64)
    aware = formats.decode(formats.encode(weight, fmt, importance))
    blind = formats.decode(formats.encode(weight, fmt))
    assert (h * (weight - aware) ** 2).sum() <= (h * (weight - blind) ** 2).sum() * (1 + 1e-5)


@pytest.mark.parametrize("fmt", [NF4, MXFP4], ids=lambda fmt: fmt.name)
def test_a_slice_of_rows_has_the_codes_of_the_whole(fmt):
    assert fmt.row_multiple == 1
    weight = ordinary(7, 192)
    whole, part = formats.encode(weight, fmt).parts, formats.encode(weight[2:5], fmt).parts
    assert all(np.array_equal(whole[name][2:5], part[name]) for name in whole)


def test_nvfp4_is_coded_as_a_whole():
    assert NVFP4.row_multiple == 0
    weight = ordinary(4, 64)
    weight[3] *= 100
    assert (
        formats.encode(weight, NVFP4).parts["global_scale"] != formats.encode(weight[:2], NVFP4).parts["global_scale"]
    )


@pytest.mark.parametrize("shape", [(1, 1), (3, 63), (2, 172)], ids=str)
def test_nf4_allows_a_short_last_group(shape):
    weight = ordinary(*shape)
    decoded = formats.decode(formats.encode(weight, NF4))
    assert squared_error(weight, decoded) <= 0.02 * squared_error(weight, 0)


@pytest.mark.parametrize("fmt", [MXFP4, NVFP4], ids=lambda fmt: fmt.name)
def test_a_broken_group_is_refused_with_advice(fmt):
    with pytest.raises(ShapeError, match=rf"172 columns .* int4-g{fmt.group_size}"):
        formats.encode(ordinary(2, 172), fmt)


@ALL
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_any_finite_weight_has_finite_codes_and_loses_less_than_zeroing_it(fmt, data):
    weight = data.draw(hnp.arrays(np.float32, (2, 64), elements=st.floats(-(2.0**100), 2.0**100, width=32)))
    decoded = formats.decode(formats.encode(weight, fmt))
    assert np.isfinite(decoded).all()
    assert squared_error(weight, decoded) <= squared_error(weight, 0) * (1 + 1e-6) + weight.size * 2.0**-254


def test_nearest_level_sends_ties_down_and_never_to_negative_zero():
    table = np.array(E2M1_LEVELS, np.float32)
    scaled = np.array([-7, -5, -0.25, -0.1, -0.0, 0.0, 0.1, 0.25, 0.3, 0.75, 2.5, 3.5, 5, 5.1, 9], np.float32)
    levels = [-6, -6, -0.5, 0, 0, 0, 0, 0, 0.5, 0.5, 2, 3, 4, 6, 6]
    assert table[nearest_level(scaled, table)].tolist() == levels


def test_mxfp4_equals_ggmls_decoding():
    weight = ordinary(4, 96) * np.float32(30)
    quantized = formats.encode(weight, MXFP4)
    # ggml's block: the scale's byte, then 16 bytes whose low halves are the first 16 codes. Its table is doubled
    # and its scale halved, so the numbers are the same.
    codes = quantized.parts["codes"].reshape(-1, 2, 16)
    blocks = np.concatenate([quantized.parts["scales"].reshape(-1, 1), codes[:, 0] | (codes[:, 1] << 4)], axis=1)
    theirs = gguf.quants.dequantize(blocks.reshape(4, -1), gguf.GGMLQuantizationType.MXFP4)
    assert np.array_equal(theirs, formats.decode(quantized))


@pytest.mark.parametrize("fmt", [MXFP4, NVFP4], ids=lambda fmt: fmt.name)
def test_compressed_tensors_unpacks_the_same_numbers(fmt):
    weight = ordinary(4, 96)
    quantized = formats.encode(weight, fmt)
    packed = torch.from_numpy(pack_nibbles(quantized.parts["codes"]))
    levels = unpack_fp4_from_uint8(packed, 4, 96, dtype=torch.float32)
    assert np.array_equal(pack_fp4_to_uint8(levels).numpy(), packed.numpy())
    if fmt == MXFP4:
        scales = decompress_mx_scale(torch.from_numpy(quantized.parts["scales"])).to(torch.float32)
    else:
        stored = torch.from_numpy(quantized.parts["scales"].view(np.uint8)).view(torch.float8_e4m3fn)
        scales = stored.to(torch.float32) / torch.from_numpy(quantized.parts["global_scale"])
    theirs = levels * scales.repeat_interleave(fmt.group_size, dim=1)
    assert np.array_equal(theirs.numpy(), formats.decode(quantized))


def test_e2m1_is_ml_dtypes_e2m1():
    theirs = np.arange(16, dtype=np.uint8).view(ml_dtypes.float4_e2m1fn).astype(np.float32)
    assert np.array_equal(np.array(E2M1_LEVELS, np.float32), theirs)
    assert np.array_equal(np.signbit(np.array(E2M1_LEVELS, np.float32)), np.signbit(theirs))


def test_nf4_is_bitsandbytes_nf4():
    table = functional.get_4bit_type("nf4", device="cpu")
    assert np.array_equal(np.array(NF4_LEVELS, np.float32), table.numpy())
    weight = ordinary(16, 256)
    quantized = formats.encode(weight, NF4)
    codes = quantized.parts["codes"]
    state = functional.QuantState(
        absmax=torch.from_numpy(quantized.parts["scales"].reshape(-1)),
        shape=torch.Size(weight.shape),
        dtype=torch.float32,
        blocksize=64,
        quant_type="nf4",
        code=table,
    )
    packed = torch.from_numpy(((codes[:, 0::2] << 4) | codes[:, 1::2]).reshape(-1, 1))
    theirs = functional.dequantize_4bit(packed, state)
    assert np.array_equal(theirs.numpy(), formats.decode(quantized))


def test_nf4_levels_are_those_of_the_normal_distribution():
    # bitsandbytes 0.50.2, create_normal_map(offset=0.9677083): quantiles of the normal distribution, the positive
    # half at eight evenly spaced probabilities and the negative at seven, divided by the largest.
    stats = pytest.importorskip("scipy.stats")
    positive = stats.norm.ppf(np.linspace(0.9677083, 0.5, 9)[:-1])
    negative = -stats.norm.ppf(np.linspace(0.9677083, 0.5, 8)[:-1])
    expected = np.sort(np.concatenate([positive, [0.0], negative])) / positive.max()
    assert np.abs(expected - NF4_LEVELS).max() < 2e-7
