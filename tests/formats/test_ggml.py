"""GGUF's block formats: the file's bytes, and the bits of ggml's dequantizers."""

import gguf
import numpy as np
import pytest

from halfpint.formats import ggml
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
