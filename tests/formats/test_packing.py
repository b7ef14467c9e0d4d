"""Dense words of 32 bits: there and back, and the words that compressed-tensors makes."""

import numpy as np
import pytest
import torch
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32, unpack_from_int32

from halfpint.errors import ShapeError
from halfpint.formats.packing import pack_bits, unpack_bits, words_per_row

BITS = pytest.mark.parametrize("bits", range(1, 9))
COUNTS = pytest.mark.parametrize("count", [1, 7, 8, 31, 32, 33, 64, 100, 172, 1024])


def codes_of(bits, count, rows=5):
    return np.random.default_rng(bits * 1000 + count).integers(0, 1 << bits, (rows, count)).astype(np.uint8)


@BITS
@COUNTS
def test_codes_come_back(bits, count):
    codes = codes_of(bits, count)
    words = pack_bits(codes, bits)
    assert words.dtype == np.uint32
    assert words.shape == (5, words_per_row(count, bits))
    assert np.array_equal(unpack_bits(words, bits, count), codes)


@BITS
@COUNTS
def test_code_i_is_at_bit_i_times_bits_of_the_row(bits, count):
    codes = codes_of(bits, count)
    for row, words in zip(codes, pack_bits(codes, bits), strict=True):
        stream = sum(int(code) << (index * bits) for index, code in enumerate(row))
        assert stream == sum(int(word) << (32 * index) for index, word in enumerate(words))


@BITS
@COUNTS
def test_the_words_are_those_of_compressed_tensors(bits, count):
    codes = codes_of(bits, count)
    signed = torch.from_numpy((codes.astype(np.int16) - (1 << (bits - 1))).astype(np.int8))
    theirs = pack_to_int32(signed, bits)
    assert np.array_equal(theirs.numpy().view(np.uint32), pack_bits(codes, bits))
    assert torch.equal(unpack_from_int32(theirs, bits, torch.Size((5, count))), signed)


def test_a_code_too_large_for_its_bits_is_refused():
    with pytest.raises(ShapeError, match="16 does not fit in 4 bits"):
        pack_bits(np.array([[3, 16]], np.uint8), 4)


def test_too_few_words_are_refused():
    with pytest.raises(ShapeError, match="3 words hold fewer than 33 codes of 3 bits"):
        unpack_bits(np.zeros((2, 3), np.uint32), 3, 33)


def test_no_rows_and_no_codes_are_fine():
    assert pack_bits(np.zeros((0, 8), np.uint8), 4).shape == (0, 1)
    assert unpack_bits(np.zeros((2, 0), np.uint32), 4, 0).shape == (2, 0)
