"""Integer products equal the NumPy reference within their bound, and are the same bits everywhere."""

from __future__ import annotations

import itertools

import ml_dtypes
import numpy as np
import pytest
from test_linear import random_parts

from halfpint import formats
from halfpint.errors import CheckpointError, ShapeError
from halfpint.formats.affine import Affine
from halfpint.formats.ggml import GgmlBlocks
from halfpint.kernels import _native
from halfpint.kernels.integer_linear import (
    Activations,
    IntegerLinear,
    error_bound,
    explain,
    reference_forward,
    reference_round,
)
from halfpint.kernels.integer_packing import layout_group
from halfpint.kernels.linear import Linear
from halfpint.tensors import Format, QuantizedTensor
from instruction_sets import ISAS

PACKED = [fmt for fmt in formats.FORMATS.values() if not fmt.name.startswith(("fp8", "f32", "f16", "bf16"))]


def _covered(fmt: Format) -> bool:
    """Of the many integer formats, a few of each width, and all groups and scales of one."""
    if not isinstance(fmt, Affine) or fmt.bits == 5:
        return True
    return fmt.scale_dtype == "fp16" and fmt.group_size in (16, 64, 0)


TABLE = [fmt for fmt in PACKED if _covered(fmt)]
RAGGED = [fmt for fmt in TABLE if isinstance(fmt, Affine) or fmt.name == "nf4"]
BLOCKS_OF_32 = [fmt for fmt in TABLE if getattr(fmt, "block_columns", 0) == 32 or fmt.name in ("mxfp4", "nvfp4")]


def name_of(fmt: Format) -> str:
    return fmt.name


def activations(tokens: int, columns: int, seed: int = 1) -> np.ndarray:
    """Activations with outliers, as those of language models."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((tokens, columns)).astype(np.float32)
    return np.where(rng.random(x.shape) < 0.005, 15 * x, x).astype(np.float32)


def bits(values: np.ndarray) -> np.ndarray:
    return values.view(np.uint32)


def on_every_isa(make):
    """Give what `make` returns under each instruction set that this processor has."""
    before, results = _native.active_isa(), {}
    try:
        for name in ISAS:
            assert _native.force_isa(name)
            results[name] = make()
    finally:
        _native.force_isa(before)
    return results


@pytest.mark.parametrize("fmt", PACKED, ids=name_of)
def test_the_layout_loses_nothing(fmt):
    weight = random_parts(fmt, 37, 512)
    packed = IntegerLinear(weight)
    expected = formats.decode(weight)
    assert packed.is_integer
    assert np.array_equal(bits(packed.decode()), bits(expected))
    ids = np.array([36, 0, 7, 7])
    assert np.array_equal(packed.rows(ids), expected[ids])


@pytest.mark.parametrize("columns", [1, 15, 16, 17, 33, 63, 257, 300, 800])
@pytest.mark.parametrize("fmt", RAGGED, ids=name_of)
def test_the_layout_has_short_ends(fmt, columns):
    weight = random_parts(fmt, 19, columns)
    assert np.array_equal(bits(IntegerLinear(weight).decode()), bits(formats.decode(weight)))
    x = activations(2, columns)
    distance = np.abs(IntegerLinear(weight).forward(x) - reference_forward(weight, x))
    assert (distance <= error_bound(weight, x)).all()


@pytest.mark.parametrize("columns", [32, 288, 576])
@pytest.mark.parametrize("fmt", BLOCKS_OF_32, ids=name_of)
def test_blocks_of_32_columns_need_no_whole_super_block(fmt, columns):
    weight = random_parts(fmt, 21, columns)
    assert np.array_equal(bits(IntegerLinear(weight).decode()), bits(formats.decode(weight)))
    x = activations(3, columns)
    distance = np.abs(IntegerLinear(weight).forward(x) - reference_forward(weight, x))
    assert (distance <= error_bound(weight, x)).all()


@pytest.mark.parametrize("rows", [1, 15, 16, 17, 47, 64])
@pytest.mark.parametrize("name", ["q4_k", "q6_k", "int4-g128", "int3-asym", "mxfp4"])
def test_any_number_of_rows(name, rows):
    weight = random_parts(formats.by_name(name), rows, 512)
    packed = IntegerLinear(weight)
    assert np.array_equal(bits(packed.decode()), bits(formats.decode(weight)))
    for tokens in (1, 3):
        x = activations(tokens, 512)
        distance = np.abs(packed.forward(x) - reference_forward(weight, x))
        assert (distance <= error_bound(weight, x)).all()


@pytest.mark.parametrize("fmt", TABLE, ids=name_of)
def test_a_product_is_within_its_bound(fmt, isa):
    weight = random_parts(fmt, 33, 768)
    packed = IntegerLinear(weight)
    for tokens in (1, 7):
        x = activations(tokens, 768)
        distance = np.abs(packed.forward(x) - reference_forward(weight, x))
        assert (distance <= error_bound(weight, x)).all()


@pytest.mark.parametrize("fmt", TABLE, ids=name_of)
def test_every_instruction_set_gives_the_same_bits(fmt):
    weight = random_parts(fmt, 33, 512)
    x = activations(3, 512)
    results = on_every_isa(lambda: IntegerLinear(weight).forward(x))
    assert "portable" in results
    for result in results.values():
        assert np.array_equal(bits(result), bits(results["portable"]))


@pytest.mark.parametrize("name", ["q4_k", "q8_0", "q4_1", "q2_k", "nvfp4", "nf4", "int7-g64-asym", "int4-g16"])
def test_the_company_of_a_token_changes_no_bit(name, isa):
    weight = random_parts(formats.by_name(name), 49, 512)
    x = activations(20, 512)
    packed = IntegerLinear(weight)
    alone = np.concatenate([packed.forward(x[i : i + 1]) for i in range(20)])
    for tokens in (2, 3, 4, 5, 6, 7, 8, 9, 20):
        assert np.array_equal(bits(packed.forward(x[:tokens], exact=True)), bits(alone[:tokens]))


@pytest.mark.parametrize("tokens", [1, 6])
@pytest.mark.parametrize("name", ["q4_k", "iq4_xs", "int4-g128"])
def test_the_number_of_threads_changes_no_bit(name, tokens, threads):
    weight = random_parts(formats.by_name(name), 1500, 1024)
    x = activations(tokens, 1024)
    results, decoded = [], []
    for count in (1, 2, 3):
        threads(count)
        packed = IntegerLinear(weight)
        results.append(packed.forward(x))
        decoded.append(packed.decode())
    assert all(np.array_equal(bits(results[0]), bits(result)) for result in results)
    assert all(np.array_equal(bits(decoded[0]), bits(values)) for values in decoded)


@pytest.mark.parametrize("columns", [512, 7, 33])
def test_rounding_activations_gives_the_bits_of_the_reference(columns, isa):
    x = activations(5, columns) * np.float32(10.0) ** np.arange(-20, 20, 8, dtype=np.float32)[:, np.newaxis]
    codes, scales = Activations(x).rounded()
    expected_codes, expected_scales = reference_round(x)
    assert np.array_equal(codes, expected_codes)
    assert np.array_equal(bits(scales), bits(expected_scales))
    assert np.abs(codes).max() == 127


def test_rounding_is_off_by_half_a_step(isa):
    x = activations(9, 320)
    codes, scales = Activations(x).rounded()
    steps = np.repeat(scales, 32, axis=1)
    assert (np.abs(codes * steps - x) <= steps * np.float32(0.5 + 2.0**-14)).all()


@pytest.mark.parametrize("name", ["q4_k", "q6_k", "q2_k", "q8_0", "int4-g128-asym", "nvfp4"])
def test_what_is_no_number_stays_none(name, isa):
    packed = IntegerLinear(random_parts(formats.by_name(name), 20, 512))
    for bad in (np.nan, np.inf, -np.inf):
        x = activations(6, 512)
        clean = packed.forward(x)
        x[2, 300] = bad
        out = packed.forward(x)
        assert np.isnan(out[2]).all()
        others = [0, 1, 3, 4, 5]
        assert np.array_equal(bits(out[others]), bits(clean[others]))
        assert np.isnan(packed.forward(x[2:3])).all()


@pytest.mark.parametrize("name", ["q4_k", "q8_0", "int4-g128"])
def test_zeros_and_extremes(name, isa):
    weight = random_parts(formats.by_name(name), 20, 512)
    packed = IntegerLinear(weight)
    assert not packed.forward(np.zeros((2, 512), np.float32)).any()
    assert not packed.forward(np.full((2, 512), 2.0**-110, np.float32)).any()
    for magnitude in (1e-25, 1e25):
        x = activations(3, 512) * np.float32(magnitude)
        distance = np.abs(packed.forward(x) - reference_forward(weight, x))
        assert (distance <= error_bound(weight, x)).all()


@pytest.mark.parametrize("name", [fmt.name for fmt in PACKED if isinstance(fmt, GgmlBlocks)])
def test_extreme_codes_do_not_overflow(name, isa):
    """The largest sums: all bits of codes and scales set or not, and activations that are all the largest."""
    fmt = formats.by_name(name)
    for byte, sign in itertools.product((0, 127, 128, 255), (1, -1)):
        blocks = random_parts(fmt, 17, 512).parts["blocks"]
        halves = np.array([byte in (0, 255)], np.float16)
        filled = np.where(np.arange(blocks.shape[-1]) >= 4, byte, blocks).astype(np.uint8)
        if name in ("q2_k", "q3_k", "q6_k"):  # their halves come last
            filled = np.where(np.arange(blocks.shape[-1]) < blocks.shape[-1] - 4, byte, blocks).astype(np.uint8)
        assert halves.size == 1
        weight = QuantizedTensor(fmt, (17, 512), {"blocks": filled})
        x = np.full((1, 512), sign, np.float32)
        distance = np.abs(IntegerLinear(weight).forward(x) - reference_forward(weight, x))
        assert (distance <= error_bound(weight, x)).all()


@pytest.mark.parametrize("name", ["int8-g32", "int8-g32-asym", "int7-g32-asym"])
def test_extreme_integers_do_not_overflow(name, isa):
    fmt = formats.by_name(name)
    assert isinstance(fmt, Affine)
    for code, sign in itertools.product((fmt.lowest, fmt.highest), (1, -1)):
        weight = random_parts(fmt, 17, 512)
        parts = {**weight.parts, "codes": np.full_like(weight.parts["codes"], code)}
        x = np.full((2, 512), sign, np.float32)
        extreme = QuantizedTensor(fmt, (17, 512), parts)
        distance = np.abs(IntegerLinear(extreme).forward(x) - reference_forward(extreme, x))
        assert (distance <= error_bound(extreme, x)).all()


@pytest.mark.parametrize("fmt", PACKED, ids=name_of)
def test_memory_is_that_of_the_file(fmt):
    """Within 2 %, but for the zero points, which take whole bytes."""
    weight = random_parts(fmt, 64, 4096)
    spare = 0
    if isinstance(fmt, Affine):
        # A line for each block of rows that has one scale a row, and zero points of 8 bits.
        spare = 4 * 128 if fmt.group_size == 0 else 0
        spare += 0 if fmt.symmetric else fmt.groups(4096) * 64 * (8 - fmt.bits) // 8
        # Scales of a super-block fill whole lines.
        spare += 4 * 16 * 64 if fmt.group_size >= 128 else 0
    assert IntegerLinear(weight).nbytes <= 1.02 * fmt.stored_bytes(64, 4096) + spare


@pytest.mark.parametrize("name", ["f32", "f16", "bf16", "fp8", "fp8-block"])
def test_what_has_no_integer_product_is_multiplied_exactly(name):
    weight = random_parts(formats.by_name(name), 33, 512)
    packed, exact = IntegerLinear(weight), Linear(weight)
    x = activations(3, 512)
    assert not packed.is_integer
    assert packed.kind == exact.kind
    assert packed.nbytes == exact.nbytes
    assert np.array_equal(packed.forward(Activations(x)), exact.forward(x))
    assert np.array_equal(packed.decode(), exact.decode())
    assert np.array_equal(packed.rows(np.array([3])), exact.rows(np.array([3])))


def test_activations_are_shared():
    x = Activations(activations(3, 512))
    for name in ("q4_k", "int4-g32", "bf16", "q8_0"):
        weight = random_parts(formats.by_name(name), 40, 512)
        packed = IntegerLinear(weight)
        assert np.array_equal(packed.forward(x), packed.forward(x.values))


def test_nothing_of_the_source_is_kept():
    weight = random_parts(formats.by_name("q4_k"), 32, 512)
    blocks = weight.parts["blocks"]
    packed = IntegerLinear(weight)
    before = packed.decode()
    blocks[...] = 0
    assert np.array_equal(packed.decode(), before)


@pytest.mark.parametrize(
    ("group_size", "columns", "expected"),
    [(0, 512, 0), (512, 512, 0), (512, 1024, 256), (128, 512, 128), (96, 512, 32), (48, 512, 16), (24, 512, None)],
)
def test_groups_are_split_into_those_of_the_layout(group_size, columns, expected):
    assert layout_group(group_size, columns) == expected


@pytest.mark.parametrize("group_size", [512, 96, 48])
def test_groups_of_other_sizes(group_size):
    fmt = Affine(4, group_size, symmetric=False)
    weight = random_parts(fmt, 20, 1024)
    packed, x = IntegerLinear(weight), activations(2, 1024)
    assert np.array_equal(bits(packed.decode()), bits(formats.decode(weight)))
    assert (np.abs(packed.forward(x) - reference_forward(weight, x)) <= error_bound(weight, x)).all()


def test_empty_batches_give_empty_results():
    packed = IntegerLinear(random_parts(formats.by_name("q4_k"), 20, 512))
    assert packed.forward(np.empty((0, 512), np.float32)).shape == (0, 20)
    assert packed.rows(np.array([], np.int64)).shape == (0, 512)


def test_wrong_shapes_and_broken_scales_are_refused():
    weight = random_parts(formats.by_name("int8"), 4, 8)
    packed = IntegerLinear(weight)
    with pytest.raises(ShapeError, match="activations"):
        packed.forward(np.ones((2, 7), np.float32))
    with pytest.raises(ShapeError, match="no matrix"):
        Activations(np.ones(7, np.float32))
    for wrong in (4, -1):
        with pytest.raises(ShapeError, match="ids"):
            packed.rows(np.array([wrong]))
    with pytest.raises(ShapeError, match="codes"):
        IntegerLinear(
            QuantizedTensor(weight.format, weight.shape, {**weight.parts, "codes": weight.parts["codes"][:3]})
        )
    nvfp4 = random_parts(formats.by_name("nvfp4"), 4, 32)
    scales = nvfp4.parts["scales"].copy()
    scales[2, 1] = ml_dtypes.float8_e4m3fn(np.nan)
    with pytest.raises(CheckpointError, match="not a number"):
        IntegerLinear(QuantizedTensor(nvfp4.format, nvfp4.shape, {**nvfp4.parts, "scales": scales}))


def test_explaining_names_the_instruction_set():
    assert _native.integer_isa() in explain()
