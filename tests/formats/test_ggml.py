"""GGUF's block formats: the file's bytes, and the bits of ggml's dequantizers."""

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from halfpint.errors import NonFiniteError, ShapeError
from halfpint.formats import ggml
from halfpint.formats.ggml.encoding import largest_weight
from halfpint.tensors import QuantizedTensor

FORMATS = pytest.mark.parametrize("fmt", ggml.FORMATS, ids=lambda fmt: fmt.name)

HALVES = {  # bytes at which each format keeps its scale and its minimum
    "q8_0": (0,), "q4_0": (0,), "q4_1": (0, 2), "q5_0": (0,), "q5_1": (0, 2), "q2_k": (80, 82), "q3_k": (108,),
    "q4_k": (0, 2), "q5_k": (0, 2), "q6_k": (208,), "iq4_nl": (0,), "iq4_xs": (0,),
}  # fmt: skip


def gguf_type(fmt):
    return gguf.GGMLQuantizationType[fmt.name.upper()]


def random_blocks(fmt, count, seed=0):
    """Blocks of random bits whose halves are finite: any such block is a valid one."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (count, fmt.block_bytes), np.uint8)
    for start in HALVES[fmt.name]:
        halves = rng.integers(0, 2**16, count, np.uint16)
        halves[halves & 0x7C00 == 0x7C00] ^= 0x4000
        blocks[:, start : start + 2] = halves[:, None].view(np.uint8)
    return blocks


def quantized(blocks, fmt):
    return QuantizedTensor(fmt, (1, len(blocks) * fmt.block_columns), {"blocks": blocks[None]})


@FORMATS
def test_the_record_states_ggmls_sizes_and_number(fmt):
    assert gguf.GGML_QUANT_SIZES[gguf_type(fmt)] == (fmt.block_columns, fmt.block_bytes)
    assert int(gguf_type(fmt)) == fmt.type_id
    assert fmt.stored_bytes(3, 512) == fmt.parts(3, 512)["blocks"].nbytes
    assert fmt.bits_per_weight == fmt.stored_bytes(1, 256) / 32


@FORMATS
def test_decoding_gives_the_bits_of_the_gguf_package(fmt):
    blocks = random_blocks(fmt, 10_000)
    expected = gguf.dequantize(blocks, gguf_type(fmt))
    assert ggml.decode(quantized(blocks, fmt)).reshape(-1).tobytes() == expected.tobytes()


@FORMATS
def test_packing_undoes_unpacking(fmt):
    blocks = random_blocks(fmt, 1_000, seed=1)
    for start in HALVES[fmt.name]:  # minus zero is the one pattern that is not written back
        blocks[:, start : start + 2][(blocks[:, start : start + 2] == (0, 128)).all(axis=1)] = 0
    assert np.array_equal(ggml.pack(ggml.unpack(blocks, fmt), fmt), blocks)


@FORMATS
def test_columns_that_are_no_whole_blocks_are_refused_with_advice(fmt):
    assert fmt.refusal(5, 768) is None
    assert "bf16" in fmt.refusal(5, 48)
    assert fmt.refusal(5, 0) is not None
    assert ("q8_0" in (fmt.refusal(5, 96) or "")) == (fmt.block_columns == 256)


def encoded(weight, fmt, importance=None):
    """The decoded approximation, and the blocks."""
    parts = ggml.encode(weight, fmt, importance)
    return ggml.decode(QuantizedTensor(fmt, weight.shape, parts)), parts["blocks"]


def weighted_error(weight, decoded, importance=None):
    """Sum of squared errors of each block of 32, times the importance, in double precision."""
    squares = (weight.astype(np.float64) - decoded) ** 2 * (1 if importance is None else importance)
    return squares.sum()


def plain(weight, fmt):
    """Plain rounding: peak to last level, sub-scales and minima from the range of each group."""
    fields = plain_fields(weight.reshape(-1, fmt.groups, fmt.group_columns), fmt)
    return ggml.decode(quantized(ggml.pack(fields, fmt), fmt)).reshape(weight.shape)


def half(values):
    """As halves; what is not zero does not become zero."""
    halves = values.astype(np.float16)
    return np.where((halves == 0) & (values != 0), np.copysign(np.float16(2.0**-24), values), halves).astype(np.float16)


def peaks(values):
    index = np.abs(values).argmax(axis=-1)[..., None]
    return np.take_along_axis(values, index, axis=-1)[..., 0]


def quotient(values, divisors):
    """Divide in float32, by way of the inverse; 0 where the divisor is negligible."""
    divisors = np.asarray(divisors, np.float32)
    negligible = np.abs(divisors) <= np.float32(1e-30)
    return values * np.where(negligible, np.float32(0), np.float32(1) / np.where(negligible, np.float32(1), divisors))


def plain_fields(groups, fmt):
    """[blocks, groups, group_columns] float32 to fields; float32 throughout, so that no tie breaks otherwise."""
    levels = np.array(ggml.levels_of(fmt), np.float32)
    least, most = (np.float32(limit) for limit in fmt.subscale_range)
    nested = fmt.groups > 1
    integers = submins = minimum = None
    if fmt.has_minimum:
        low = np.minimum(groups.min(-1), np.float32(0)) if nested else groups.min(-1)
        scale = (groups.max(-1) - low) / levels[-1]
        block_scale = half(scale.max(-1) / most)
        minimum = half(-low.min(-1) / most) if nested else low[:, 0].astype(np.float16)
        offset = minimum[:, None].astype(np.float32)
        if nested:
            submins = np.clip(np.rint(quotient(-low, offset)), least, most)
            offset = -(offset * submins)
    else:
        scale = peaks(groups) / (np.float32(-127) if fmt.name == "q8_0" else levels[0])
        block_scale = half(peaks(scale) / least)
        offset = np.zeros((len(groups), 1), np.float32)
    multiplied = block_scale[:, None].astype(np.float32)
    if nested:
        integers = np.clip(np.rint(quotient(scale, multiplied)), least, most)
        multiplied = multiplied * integers
    stretched = quotient(groups - offset[..., None], multiplied[..., None])
    if fmt.name == "q8_0":
        stretched = np.clip(stretched, -127, 127)
    codes = np.abs(stretched[..., None] - levels).argmin(-1).astype(np.uint8).reshape(len(groups), -1)
    return ggml.BlockFields(codes, block_scale, minimum, as_integers(integers), as_integers(submins))


def as_integers(values):
    return None if values is None else values.astype(np.int32)


def weights_of_kind(kind, seed, rows=4, columns=512):
    rng = np.random.default_rng(seed)
    normal = rng.standard_normal((rows, columns)).astype(np.float32)
    signs = np.abs(normal)
    spiked = normal.copy()
    spiked[:, ::97] *= 1e4
    return {
        "normal": normal * np.float32(0.02),
        "heavy tails": rng.standard_t(3, (rows, columns)).astype(np.float32),
        "one huge outlier": spiked,
        "positive": signs,
        "negative": -signs,
        "far from zero": normal * np.float32(0.01) + 3,
        "constant": np.full((rows, columns), 0.7, np.float32),
        "few values": rng.integers(-1, 2, (rows, columns)).astype(np.float32),
        "half zero": np.where(rng.random((rows, columns)) < 0.5, 0, normal).astype(np.float32),
        "scales between halves": normal * np.float32(3e-7),
        "below every half": normal * np.float32(1e-8),
        "denormal": normal * np.float32(1e-40),
        "large": normal * np.float32(1e4),
    }[kind]


KINDS = (
    "normal", "heavy tails", "one huge outlier", "positive", "negative", "far from zero", "constant", "few values",
    "half zero", "scales between halves", "below every half", "denormal", "large",
)  # fmt: skip


def importances(kind, shape, seed):
    rng = np.random.default_rng(seed + 1)
    spread = np.exp(rng.standard_normal(shape)).astype(np.float32)
    dead = spread[0].copy()
    dead[:64] = 0
    return {
        "none": None,
        "columns": spread[0],
        "elements": spread,
        "dead groups": dead,
        "all zero": np.zeros(shape[1], np.float32),
        "tiny": spread[0] * np.float32(1e-30),
    }[kind]


IMPORTANCES = ("none", "columns", "elements", "dead groups", "all zero", "tiny")


@FORMATS
@pytest.mark.parametrize("importance_kind", IMPORTANCES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_error_is_at_most_that_of_plain_rounding_and_of_zero(fmt, kind, importance_kind):
    weight = weights_of_kind(kind, seed=len(kind))
    importance = importances(importance_kind, weight.shape, seed=3)
    decoded, _ = encoded(weight, fmt, importance)
    assert np.isfinite(decoded).all()
    error = weighted_error(weight, decoded, importance)
    slack = 1 + 1e-5  # errors are compared in float32
    assert error <= weighted_error(weight, plain(weight, fmt), importance) * slack
    assert error <= weighted_error(weight, 0 * weight, importance) * slack


@FORMATS
@settings(max_examples=40, deadline=None)
@given(
    weight=arrays.arrays(np.float32, (1, 256), elements=st.floats(-8, 8, width=32), fill=st.just(0)),
    importance=arrays.arrays(np.float32, 256, elements=st.floats(2.0**-10, 1, width=32)) | st.none(),
)
def test_no_weight_and_no_importance_makes_it_worse_than_plain_rounding(fmt, weight, importance):
    decoded, blocks = encoded(weight, fmt, importance)
    assert np.array_equal(encoded(weight, fmt, importance)[1], blocks)
    allowed = weighted_error(weight, plain(weight, fmt), importance)
    assert weighted_error(weight, decoded, importance) <= allowed * (1 + 1e-5) + 1e-30


@FORMATS
def test_zeros_stay_zeros(fmt):
    weight = weights_of_kind("normal", seed=0)
    weight[1] = 0
    weight[2, :256] = 0
    decoded, blocks = encoded(weight, fmt)
    assert not decoded[1].any()
    assert not decoded[2, :256].any()
    assert all(not blocks[1][:, start : start + 2].any() for start in HALVES[fmt.name])


@FORMATS
def test_rows_are_independent(fmt):
    weight = weights_of_kind("heavy tails", seed=4, rows=5)
    importance = importances("elements", weight.shape, seed=4)
    together = encoded(weight, fmt, importance)[1]
    alone = encoded(weight[3:4], fmt, importance[3:4])[1]
    assert np.array_equal(together[3:4], alone)


@FORMATS
def test_equal_importances_are_no_importances(fmt):
    weight = weights_of_kind("heavy tails", seed=5)
    without = encoded(weight, fmt)[1]
    for value in (0, 1, 3.7):
        assert np.array_equal(encoded(weight, fmt, np.full(512, value, np.float32))[1], without)


@FORMATS
def test_weights_that_no_half_can_scale_are_refused(fmt):
    weight = np.full((1, 256), 1e30, np.float32)
    with pytest.raises(ShapeError, match="bf16"):
        ggml.encode(weight, fmt, None)


@FORMATS
@pytest.mark.parametrize("sign", [-1, 1])
def test_the_largest_weights_that_are_accepted_decode_to_finite_numbers(fmt, sign):
    weight = np.full((2, 256), sign * largest_weight(fmt) * 0.999, np.float32)
    weight[1, ::2] = 0
    decoded, _ = encoded(weight, fmt)
    assert np.isfinite(decoded).all()
    assert np.abs(decoded - weight).max() <= np.abs(weight).max() * 0.01


def test_the_code_minus_128_is_never_written_in_q8_0():
    fmt = ggml.FORMATS[0]
    blocks = encoded(weights_of_kind("one huge outlier", seed=7, rows=64), fmt)[1]
    assert fmt.name == "q8_0"
    assert (blocks[:, :, 2:] != 128).all()


@FORMATS
@pytest.mark.parametrize("bad", [-1, np.nan, np.inf])
def test_an_importance_that_is_no_weight_is_refused(fmt, bad):
    importance = np.ones(256, np.float32)
    importance[7] = bad
    with pytest.raises(NonFiniteError, match=r"index \[7\]"):
        ggml.encode(np.ones((2, 256), np.float32), fmt, importance)
    with pytest.raises(ShapeError, match="one per column"):
        ggml.encode(np.ones((2, 256), np.float32), fmt, np.ones(2, np.float32))
