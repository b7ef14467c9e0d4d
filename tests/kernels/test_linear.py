"""Products over packed weights equal the NumPy reference, for every format, shape and instruction set."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from halfpint import formats
from halfpint.errors import ShapeError, UnsupportedError
from halfpint.formats.affine import Affine
from halfpint.kernels import _native
from halfpint.kernels.linear import Linear, error_bound, explain, reference_forward
from halfpint.tensors import Array, Format, QuantizedTensor


def _covered(fmt: Format) -> bool:
    """Of the many integer formats, a few of each width and kind."""
    return not isinstance(fmt, Affine) or (
        (fmt.group_size in (32, 128, 0) and fmt.scale_dtype != "bf16") or fmt.bits == 4
    )


TABLE = [fmt for fmt in formats.FORMATS.values() if _covered(fmt)]


def random_parts(fmt: Format, rows: int, columns: int, seed: int = 0) -> QuantizedTensor:
    """Random codes with sane scales: every code appears, and no encoder is needed."""
    rng = np.random.default_rng(seed)
    parts: dict[str, Array] = {}
    for name, spec in fmt.parts(rows, columns).items():
        parts[name] = _random_part(fmt, name, spec.shape, spec.dtype, rng)
    return QuantizedTensor(fmt, (rows, columns), parts)


def _random_part(fmt: Format, name: str, shape: tuple[int, ...], dtype: np.dtype, rng: np.random.Generator) -> Array:
    if name == "blocks":
        return _random_blocks(fmt.name, shape, rng)
    if name == "values":
        return rng.standard_normal(shape).astype(dtype)
    if name == "codes" and dtype == ml_dtypes.float8_e4m3fn:
        return rng.standard_normal(shape).astype(dtype)
    if name in ("codes", "zero_points"):
        low = -(1 << (fmt.bits - 1)) if dtype == np.int8 else 0
        return rng.integers(low, low + (1 << fmt.bits), shape).astype(dtype)
    if dtype == np.uint8:  # exponents
        return rng.integers(110, 130, shape).astype(dtype)
    return (rng.random(shape) + 0.1).astype(dtype)


def _random_blocks(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    blocks = rng.integers(0, 256, shape).astype(np.uint8)
    # Where the halves are in each block struct (ggml-common.h): scale, and minimum if there is one.
    offsets = {"q2_k": (80, 82), "q3_k": (108,), "q6_k": (208,), "q4_1": (0, 2), "q5_1": (0, 2), "q4_k": (0, 2)}
    offsets["q5_k"] = (0, 2)
    for offset in offsets.get(name, (0,)):
        halves = ((rng.random(shape[:-1]) - 0.4) * 0.1).astype(np.float16)
        blocks[..., offset : offset + 2] = halves[..., np.newaxis].view(np.uint8)
    return blocks


@pytest.mark.parametrize("fmt", TABLE, ids=lambda fmt: fmt.name)
def test_decoding_gives_the_bits_of_the_reference(fmt, isa):
    weight = random_parts(fmt, 130, 512)
    expected = formats.decode(weight)
    linear = Linear(weight)
    assert np.array_equal(linear.decode().view(np.uint32), expected.view(np.uint32))
    ids = np.array([129, 0, 7, 7])
    assert np.array_equal(linear.rows(ids), expected[ids])


@pytest.mark.parametrize("tokens", [1, 3, 4, 5, 40])
@pytest.mark.parametrize("fmt", TABLE, ids=lambda fmt: fmt.name)
def test_a_product_is_within_the_bound_of_float32_summation(fmt, tokens):
    weight = random_parts(fmt, 37, 768)
    x = np.random.default_rng(1).standard_normal((tokens, 768)).astype(np.float32)
    distance = np.abs(Linear(weight).forward(x) - reference_forward(weight, x))
    assert (distance <= error_bound(weight, x)).all()


@pytest.mark.parametrize("tokens", [1, 2, 5, 8, 200])
@pytest.mark.parametrize("name", ["f32", "bf16", "q8_0", "q4_k", "int4-g32", "int8", "fp8-block"])
def test_every_instruction_set_keeps_the_bound(name, tokens, isa):
    weight = random_parts(formats.by_name(name), 70, 512)
    x = np.random.default_rng(2).standard_normal((tokens, 512)).astype(np.float32)
    distance = np.abs(Linear(weight).forward(x) - reference_forward(weight, x))
    assert (distance <= error_bound(weight, x)).all()


@pytest.mark.parametrize("columns", [1, 2, 31, 63, 65, 255, 257, 1000])
@pytest.mark.parametrize(
    "name", ["f32", "f16", "bf16", "int4-g32", "int4-g128-asym", "int8", "int6-g32", "nf4", "fp8-block"]
)
def test_short_ends_of_rows_count(name, columns):
    weight = random_parts(formats.by_name(name), 9, columns)
    x = np.random.default_rng(3).standard_normal((2, columns)).astype(np.float32)
    distance = np.abs(Linear(weight).forward(x) - reference_forward(weight, x))
    assert (distance <= error_bound(weight, x)).all()


@pytest.mark.parametrize("tokens", [2, 50])
@pytest.mark.parametrize("name", ["q4_k", "bf16", "int4-g128"])
def test_the_number_of_threads_changes_no_bit(name, tokens, threads):
    weight = random_parts(formats.by_name(name), 1500, 1024)
    x = np.random.default_rng(4).standard_normal((tokens, 1024)).astype(np.float32)
    linear, results = Linear(weight), []
    for count in (1, 2, 3):
        threads(count)
        results.append(linear.forward(x))
    assert all(np.array_equal(results[0], result) for result in results)


@pytest.mark.parametrize("columns", [512, 300, 7])
def test_the_company_of_a_token_changes_no_bit(columns, isa):
    weight = random_parts(formats.by_name("int4-g32"), 67, columns)
    x = np.random.default_rng(5).standard_normal((150, columns)).astype(np.float32)
    linear = Linear(weight)
    alone = np.concatenate([linear.forward(x[i : i + 1]) for i in range(150)])
    for count in (2, 4, 5, 6, 7, 12, 13, 150):
        assert np.array_equal(linear.forward(x[:count]), alone[:count])


def test_avx2_and_avx512_give_the_same_bits():
    weight = random_parts(formats.by_name("q4_k"), 67, 512)
    x = np.random.default_rng(5).standard_normal((20, 512)).astype(np.float32)
    before, results = _native.active_isa(), []
    if before != "avx512":
        pytest.skip("this processor has no avx512")
    try:
        for name in ("avx2", "avx512"):
            _native.force_isa(name)
            results.append(Linear(weight).forward(x))
    finally:
        _native.force_isa(before)
    assert np.array_equal(*results)


def test_a_map_of_a_file_is_not_copied(tmp_path):
    values = np.random.default_rng(6).standard_normal((16, 32)).astype(ml_dtypes.bfloat16)
    path = tmp_path / "weight"
    path.write_bytes(b"x" + values.tobytes())  # misaligned on purpose
    mapped = np.memmap(path, np.uint8, "r", offset=1).view(ml_dtypes.bfloat16).reshape(16, 32)
    assert np.array_equal(Linear(mapped).decode(), values.astype(np.float32))
    misaligned = (
        np.frombuffer(b"x" + values.astype(np.float32).tobytes(), np.uint8)[1:].view(np.float32).reshape(16, 32)
    )
    x = np.ones((20, 32), np.float32)
    assert np.allclose(Linear(misaligned).forward(x), x @ values.astype(np.float32).T, rtol=1e-5, atol=1e-5)


def test_packed_codes_take_half_a_byte_each():
    weight = random_parts(formats.by_name("int4-g128"), 64, 256)
    assert Linear(weight).nbytes == 64 * 128 + weight.parts["scales"].nbytes


def test_wrong_shapes_are_refused():
    linear = Linear(np.ones((4, 8), np.float32))
    with pytest.raises(ShapeError, match="activations"):
        linear.forward(np.ones((2, 7), np.float32))
    with pytest.raises(ShapeError, match="ids"):
        linear.rows(np.array([4]))
    with pytest.raises(ShapeError, match="no matrix"):
        Linear(np.ones(4, np.float32))
    with pytest.raises(UnsupportedError, match="float64"):
        Linear(np.ones((4, 8)))
    weight = random_parts(formats.by_name("int8"), 4, 8)
    broken = QuantizedTensor(weight.format, weight.shape, {**weight.parts, "codes": weight.parts["codes"][:3]})
    with pytest.raises(ShapeError, match="codes"):
        Linear(broken)


def test_explaining_names_the_instruction_set():
    assert _native.linear_isa() in explain()
