"""e4m3 per row and per block: the laws of the formats, and compressed-tensors' decoding of their parts."""

import numpy as np
import pytest
import torch
from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization.lifecycle.forward import dequantize
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from halfpint import formats
from halfpint.formats.float8 import FORMATS, FP8, FP8_BLOCK, LARGEST
from ugly_weights import importances, kinds, ordinary

ALL = pytest.mark.parametrize("fmt", FORMATS, ids=lambda fmt: fmt.name)
KINDS = pytest.mark.parametrize(("kind", "weight"), kinds(), ids=[kind for kind, _ in kinds()])


def spread(quantized):
    rows, columns = quantized.shape
    side = quantized.format.block
    scales = quantized.parts["scales"].astype(np.float64)
    if not side:
        return np.broadcast_to(scales, (rows, columns))
    return np.repeat(np.repeat(scales, side, axis=0), side, axis=1)[:rows, :columns]


@ALL
@KINDS
def test_every_weight_is_within_a_sixteenth_or_half_the_smallest_step(fmt, kind, weight):
    quantized = formats.encode(weight, fmt)
    declared = {name: (part.shape, part.dtype) for name, part in fmt.parts(*weight.shape).items()}
    assert {name: (part.shape, part.dtype) for name, part in quantized.parts.items()} == declared
    assert fmt.stored_bytes(*weight.shape) == sum(part.nbytes for part in quantized.parts.values())
    error = np.abs(weight.astype(np.float64) - formats.decode(quantized))
    half_step = 2.0**-10 * spread(quantized)  # e4m3's smallest number is 2**-9
    assert (error <= np.maximum(np.abs(weight.astype(np.float64)) / 16, half_step) * (1 + 1e-6)).all()


@ALL
@KINDS
@pytest.mark.parametrize("name", ["none", "columns", "half zero", "all zero"])
def test_a_zero_weight_is_exact(fmt, kind, weight, name):
    weight = weight.copy()
    weight[:, ::7] = 0
    quantized = formats.encode(weight, fmt, importances(weight.shape)[name])
    assert (formats.decode(quantized)[:, ::7] == 0).all()
    assert (quantized.parts["scales"] > 0).all()


@ALL
def test_searching_the_octave_beats_the_largest_magnitude_alone(fmt):
    weight = ordinary(256, 256)
    region = weight.reshape(2, 128, 2, 128).swapaxes(1, 2) if fmt.block else weight
    axes = (2, 3) if fmt.block else 1
    scale = np.abs(region).max(axis=axes, keepdims=True) / LARGEST
    plain = (np.clip(region / scale, -448, 448).astype(fmt.parts(1, 1)["codes"].dtype).astype(np.float32)) * scale
    searched = formats.decode(formats.encode(weight, fmt))
    assert ((weight - searched) ** 2).sum() <= ((region - plain) ** 2).sum() * (1 + 1e-6)


@ALL
def test_a_slice_of_whole_blocks_of_rows_has_the_codes_of_the_whole(fmt):
    weight = ordinary(300, 150)
    start, end = fmt.row_multiple, 2 * fmt.row_multiple
    whole, part = formats.encode(weight, fmt).parts, formats.encode(weight[start:end], fmt).parts
    assert np.array_equal(whole["codes"][start:end], part["codes"])
    assert np.array_equal(whole["scales"][1:2], part["scales"])


@ALL
@given(weight=hnp.arrays(np.float32, (3, 20), elements=st.floats(-(2.0**120), 2.0**120, width=32)))
@settings(max_examples=40, deadline=None)
def test_any_finite_weight_decodes_to_finite_numbers(fmt, weight):
    decoded = formats.decode(formats.encode(weight, fmt))
    assert np.isfinite(decoded).all()
    assert (np.abs(weight.astype(np.float64) - decoded) <= np.abs(weight).max() / 16 * (1 + 1e-6) + 2.0**-127).all()


@pytest.mark.parametrize(("fmt", "strategy"), [(FP8, "channel"), (FP8_BLOCK, "block")], ids=["fp8", "fp8-block"])
def test_compressed_tensors_dequantizes_the_same_numbers(fmt, strategy):
    weight = ordinary(200, 260)
    quantized = formats.encode(weight, fmt)
    args = QuantizationArgs(
        num_bits=8, type="float", strategy=strategy, block_structure=[128, 128] if fmt.block else None
    )
    codes = torch.from_numpy(quantized.parts["codes"].view(np.uint8)).view(torch.float8_e4m3fn)
    theirs = dequantize(codes, torch.from_numpy(quantized.parts["scales"]), None, args)
    assert np.array_equal(theirs.numpy(), formats.decode(quantized))
