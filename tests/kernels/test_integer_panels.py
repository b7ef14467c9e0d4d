"""Products with many tokens: near the exact ones within their bound, and the same bits everywhere."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from test_integer_linear import BLOCKS_OF_32, RAGGED, TABLE, activations, bits, name_of, on_every_isa
from test_linear import random_parts

from halfpint import formats
from halfpint.errors import ShapeError
from halfpint.formats import ggml
from halfpint.formats.affine import Affine
from halfpint.formats.ggml import GgmlBlocks
from halfpint.kernels import _native
from halfpint.kernels.elementwise import gated
from halfpint.kernels.integer_linear import (
    FEW_TOKENS,
    WIDE_COLUMNS,
    Activations,
    IntegerLinear,
    error_bound,
    multiply,
    multiply_gated,
    reference_forward,
    reference_round,
)
from halfpint.kernels.integer_panels import panel_steps, reference_forward_wide, wide_error_bound, wide_rounded
from halfpint.tensors import QuantizedTensor

FEW = ["q4_k", "q8_0", "q4_1", "q2_k", "nvfp4", "nf4", "int7-g64-asym", "int4-g16"]
MANY = FEW_TOKENS + 1


def assert_within_bound(weight, x):
    distance = np.abs(IntegerLinear(weight).forward(x) - reference_forward_wide(weight, x))
    assert (distance <= wide_error_bound(weight, x)).all()


@pytest.mark.parametrize("fmt", TABLE, ids=name_of)
def test_a_product_is_within_its_bound(fmt, isa):
    assert_within_bound(random_parts(fmt, 33, 768), activations(MANY + 4, 768))


@pytest.mark.parametrize("fmt", TABLE, ids=name_of)
def test_every_instruction_set_gives_the_same_bits(fmt):
    weight, x = random_parts(fmt, 55, 768), activations(MANY, 768)
    results = on_every_isa(lambda: IntegerLinear(weight).forward(x))
    assert "portable" in results
    for result in results.values():
        assert np.array_equal(bits(result), bits(results["portable"]))


@pytest.mark.parametrize("name", ["q4_k", "q4_0", "iq4_xs", "q6_k", "q8_0", "int4-g128", "nf4", "mxfp4"])
def test_noise_is_small_against_the_result(name, isa):
    """Weights and activations of normal distribution: what `integer_panels` states."""
    fmt = formats.by_name(name)
    rng = np.random.default_rng(3)
    weight = formats.encode(rng.standard_normal((64, 2048)).astype(np.float32), fmt)
    x = rng.standard_normal((48, 2048)).astype(np.float32)
    expected = reference_forward_wide(weight, x)
    noise = IntegerLinear(weight).forward(x) - expected
    assert np.sqrt(np.square(noise).mean() / np.square(expected).mean()) < 0.009


@pytest.mark.parametrize("columns", [1, 15, 16, 17, 33, 63, 65, 257, 300, 800])
@pytest.mark.parametrize("fmt", RAGGED, ids=name_of)
def test_short_ends(fmt, columns):
    assert_within_bound(random_parts(fmt, 19, columns), activations(MANY, columns))


@pytest.mark.parametrize("columns", [32, 288, 576])
@pytest.mark.parametrize("fmt", BLOCKS_OF_32, ids=name_of)
def test_blocks_of_32_columns_need_no_whole_super_block(fmt, columns):
    assert_within_bound(random_parts(fmt, 21, columns), activations(MANY, columns))


@pytest.mark.parametrize("rows", [1, 15, 16, 17, 47, 64, 65, 130])
@pytest.mark.parametrize("name", ["q4_k", "q6_k", "mxfp4"])
def test_any_number_of_rows(name, rows, isa):
    assert_within_bound(random_parts(formats.by_name(name), rows, 256), activations(MANY, 256))


@pytest.mark.parametrize("name", FEW)
def test_the_company_of_a_token_changes_no_bit(name, isa):
    weight, x = random_parts(formats.by_name(name), 49, 512), activations(40, 512)
    packed = IntegerLinear(weight)
    all_together = packed.forward(x)
    for begin, end in [(0, MANY), (3, 15), (1, 30), (7, 26), (20, 40)]:
        assert np.array_equal(bits(packed.forward(x[begin:end])), bits(all_together[begin:end]))


def test_more_tokens_than_one_sweep_takes():
    weight, x = random_parts(formats.by_name("q4_k"), 70, 256), activations(1100, 256)
    packed = IntegerLinear(weight)
    together = packed.forward(x)
    parts = [packed.forward(x[begin : begin + 110]) for begin in range(0, 1100, 110)]
    assert np.array_equal(bits(together), bits(np.concatenate(parts)))


@pytest.mark.parametrize("tokens", [MANY, 40])
def test_the_company_of_a_weight_changes_no_bit(tokens, isa):
    shapes = [("q4_k", 49), ("q6_k", 130), ("int4-g128", 16), ("q4_k", 1)]
    weights = [IntegerLinear(random_parts(formats.by_name(name), rows, 512)) for name, rows in shapes]
    x = Activations(activations(tokens, 512))
    for weight, out in zip(weights, multiply(weights, x), strict=True):
        assert np.array_equal(bits(out), bits(weight.forward(x)))


@pytest.mark.parametrize("activation", ["silu", "gelu_tanh"])
@pytest.mark.parametrize(("rows", "tokens"), [(17, MANY), (64, 13), (130, 40), (70, 1100)])
def test_gating_in_one_gives_the_bits_of_its_parts(rows, tokens, activation, isa):
    gate, up = (IntegerLinear(random_parts(formats.by_name(name), rows, 256)) for name in ("q4_k", "q6_k"))
    x = Activations(activations(tokens, 256))
    expected = gated(activation, gate.forward(x), up.forward(x))
    assert np.array_equal(bits(multiply_gated(gate, up, x, activation)), bits(expected))


@pytest.mark.parametrize("rows", [1024, 1030])
def test_results_larger_than_a_cache(rows, isa):
    """They are written past the caches where rows begin on lines: the bits of smaller ones, which are not."""
    gate, up = (IntegerLinear(random_parts(formats.by_name(name), rows, 256)) for name in ("q4_k", "q8_0"))
    x = activations(520, 256)
    parts = [x[begin : begin + 130] for begin in range(0, 520, 130)]
    expected = np.concatenate([gate.forward(part) for part in parts])
    assert expected.nbytes > 2 << 20
    assert np.array_equal(bits(gate.forward(x)), bits(expected))
    beside_lines = np.empty(expected.size + 1, np.float32)[1:].reshape(expected.shape)
    _native.multiply_many([gate._packed], Activations(x).handle, [beside_lines])
    assert np.array_equal(bits(beside_lines), bits(expected))
    expected = np.concatenate([multiply_gated(gate, up, Activations(part), "silu") for part in parts])
    assert np.array_equal(bits(multiply_gated(gate, up, Activations(x), "silu")), bits(expected))


def test_gating_in_one_is_for_many_tokens_and_integers():
    packed = IntegerLinear(random_parts(formats.by_name("q4_k"), 20, 256))
    plain = IntegerLinear(np.zeros((20, 256), np.float32))
    few, many = Activations(activations(FEW_TOKENS, 256)), Activations(activations(MANY, 256))
    assert multiply_gated(packed, packed, few, "silu") is None
    assert multiply_gated(plain, packed, many, "silu") is None
    other = IntegerLinear(random_parts(formats.by_name("q4_k"), 30, 256))
    with pytest.raises(ShapeError, match="20, 256"):
        multiply_gated(packed, other, many, "silu")


@pytest.mark.parametrize("name", ["q4_k", "iq4_xs", "int4-g128"])
def test_the_number_of_threads_changes_no_bit(name, threads):
    weight, x = random_parts(formats.by_name(name), 400, 1024), activations(100, 1024)
    results = []
    for count in (1, 2, 3):
        threads(count)
        results.append(IntegerLinear(weight).forward(x))
    assert all(np.array_equal(bits(results[0]), bits(result)) for result in results)


@pytest.mark.parametrize("columns", [512, 7, 33, 300])
def test_rounding_activations_gives_the_bits_of_the_reference(columns, isa):
    x = activations(11, columns) * np.float32(10.0) ** np.arange(-33, 33, 6, dtype=np.float32)[:, np.newaxis]
    codes, scales = wide_rounded(Activations(x))
    expected_codes, expected_scales = reference_round(x, WIDE_COLUMNS)
    assert np.array_equal(codes[:, : expected_codes.shape[1]], expected_codes)
    assert np.array_equal(bits(scales[:, : expected_scales.shape[1]]), bits(expected_scales))
    assert not codes[:, expected_codes.shape[1] :].any()


@pytest.mark.parametrize("name", FEW)
def test_exact_products_are_those_of_few_tokens(name, isa):
    weight, x = random_parts(formats.by_name(name), 40, 512), activations(20, 512)
    packed = IntegerLinear(weight)
    exact = packed.forward(x, exact=True)
    assert (np.abs(exact - reference_forward(weight, x)) <= error_bound(weight, x)).all()
    assert np.array_equal(bits(exact[:5]), bits(packed.forward(x[:5])))
    assert not np.array_equal(exact, packed.forward(x))


@pytest.mark.parametrize("name", FEW)
def test_what_is_no_number_stays_none(name, isa):
    packed = IntegerLinear(random_parts(formats.by_name(name), 20, 512))
    x = activations(12, 512)
    clean = packed.forward(x)
    for bad in (np.nan, np.inf, -np.inf):
        broken = x.copy()
        broken[2, 300] = bad
        out = packed.forward(broken)
        assert np.isnan(out[2]).all()
        others = np.arange(12) != 2
        assert np.array_equal(bits(out[others]), bits(clean[others]))


@pytest.mark.parametrize("name", ["q4_k", "q8_0", "q6_k", "q4_1"])
def test_a_scale_that_is_no_number_spoils_its_row_alone(name, isa):
    weight, x = random_parts(formats.by_name(name), 20, 512), activations(12, 512)
    clean = IntegerLinear(weight).forward(x)
    offset = {"q6_k": 208}.get(name, 0)
    for bad in (np.nan, np.inf):
        weight.parts["blocks"].reshape(20, -1)[7, offset : offset + 2] = np.float16([bad]).view(np.uint8)
        out = IntegerLinear(weight).forward(x)
        assert np.isnan(out[:, 7]).all()
        others = np.arange(20) != 7
        assert np.array_equal(bits(out[:, others]), bits(clean[:, others]))


@pytest.mark.parametrize("name", ["q4_k", "q8_0", "int4-g128"])
def test_zeros_and_extremes(name, isa):
    weight = random_parts(formats.by_name(name), 20, 512)
    packed = IntegerLinear(weight)
    assert not packed.forward(np.zeros((MANY, 512), np.float32)).any()
    assert not packed.forward(np.full((MANY, 512), 2.0**-110, np.float32)).any()
    for magnitude in (1e-25, 1e25):
        assert_within_bound(weight, activations(MANY, 512) * np.float32(magnitude))


@pytest.mark.parametrize("fmt", [fmt for fmt in TABLE if isinstance(fmt, GgmlBlocks)], ids=name_of)
def test_extreme_codes_do_not_overflow(fmt, isa):
    for byte, sign in itertools.product((0, 255), (1, -1)):
        weight = random_parts(fmt, 17, 512)
        blocks = weight.parts["blocks"].reshape(-1, fmt.block_bytes)
        fields = ggml.unpack(blocks, fmt)
        fields.codes[...] = byte & ((1 << fmt.bits) - 1)
        extreme = QuantizedTensor(
            fmt, (17, 512), {"blocks": ggml.pack(fields, fmt).reshape(weight.parts["blocks"].shape)}
        )
        assert_within_bound(extreme, np.full((MANY, 512), sign, np.float32))


@pytest.mark.parametrize("name", ["int8-g32", "int8-g32-asym", "int7-g32-asym", "int2-g32-asym"])
def test_extreme_integers_do_not_overflow(name, isa):
    fmt = formats.by_name(name)
    assert isinstance(fmt, Affine)
    for code, sign in itertools.product((fmt.lowest, fmt.highest), (1, -1)):
        weight = random_parts(fmt, 17, 512)
        parts = {**weight.parts, "codes": np.full_like(weight.parts["codes"], code)}
        assert_within_bound(QuantizedTensor(fmt, (17, 512), parts), np.full((MANY, 512), sign, np.float32))


@pytest.mark.parametrize("fmt", TABLE, ids=name_of)
def test_steps_hold_every_weight(fmt):
    weight = random_parts(fmt, 20, 512)
    largest = np.abs(formats.decode(weight)).reshape(20, 2, 256).max(axis=2)
    assert (largest <= 127 * panel_steps(weight) * (1 + 1e-6)).all()


def test_empty_batches_give_empty_results():
    packed = IntegerLinear(random_parts(formats.by_name("q4_k"), 20, 512))
    assert packed.forward(np.empty((0, 512), np.float32)).shape == (0, 20)
