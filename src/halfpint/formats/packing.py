"""Codes of a few bits in 32-bit words: the only shifts and masks outside of GGUF's own blocks.

The stream is dense and little-endian: code `i` of a row occupies bits [i * bits, (i + 1) * bits), counted from the
lowest bit of word 0; a code may straddle two words. This is what compressed-tensors (0.18 and later) and MLX store;
for 2, 4 and 8 bits no code straddles, and every version agrees.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from halfpint.errors import ShapeError

WORD_BITS = 32


def words_per_row(count: int, bits: int) -> int:
    """32-bit words that `count` codes of `bits` bits occupy."""
    return -(-count * bits // WORD_BITS)


def pack_bits(codes: NDArray[np.uint8], bits: int) -> NDArray[np.uint32]:
    """Pack unsigned codes along the last axis.

    Parameters
    ----------
    codes : uint8 [rows, count]
        Each below 2**bits.
    bits : int
        1 to 8.

    Returns
    -------
    uint32 [rows, ceil(count * bits / 32)]
        Unused high bits of the last word are 0.

    Raises
    ------
    ShapeError
        If a code needs more bits than it is given.
    """
    rows, count = codes.shape
    if codes.size and int(codes.max()) >> bits:
        raise ShapeError(f"a code of {int(codes.max())} does not fit in {bits} bits")
    if bits == 8 or (bits == 4 and count % 8 == 0):
        return _pack_bytes(codes, bits)
    words = np.zeros((rows, -(-count // WORD_BITS), bits + 1), dtype=np.uint32)
    padded = np.zeros((rows, words.shape[1] * WORD_BITS), dtype=np.uint32)
    padded[:, :count] = codes
    # 32 codes fill exactly `bits` words; the extra word takes the (empty) spill of the last code.
    lanes = padded.reshape(rows, words.shape[1], WORD_BITS)
    for index in range(WORD_BITS):
        word, shift = divmod(index * bits, WORD_BITS)
        words[:, :, word] |= lanes[:, :, index] << np.uint32(shift)
        if shift + bits > WORD_BITS:
            words[:, :, word + 1] |= lanes[:, :, index] >> np.uint32(WORD_BITS - shift)
    return np.ascontiguousarray(
        words[:, :, :bits].reshape(rows, words.shape[1] * bits)[:, : words_per_row(count, bits)]
    )


def _pack_bytes(codes: NDArray[np.uint8], bits: int) -> NDArray[np.uint32]:
    """Pack 4- or 8-bit codes through bytes: two or one a byte, low half first."""
    rows, count = codes.shape
    if bits == 4:
        octets = codes[:, 0::2] | (codes[:, 1::2] << np.uint8(4))
    else:
        octets = np.zeros((rows, words_per_row(count, bits) * 4), dtype=np.uint8)
        octets[:, :count] = codes
    return np.ascontiguousarray(octets).view("<u4")


def unpack_bits(words: NDArray[np.uint32], bits: int, count: int) -> NDArray[np.uint8]:
    """Give back `count` codes a row from what `pack_bits` made.

    Parameters
    ----------
    words : uint32 [rows, ceil(count * bits / 32)]
    bits : int
        1 to 8.
    count : int
        Codes in a row.

    Returns
    -------
    uint8 [rows, count]

    Raises
    ------
    ShapeError
        If the rows are too short for `count` codes.
    """
    rows, available = words.shape
    if available < words_per_row(count, bits):
        raise ShapeError(f"{available} words hold fewer than {count} codes of {bits} bits")
    blocks = -(-count // WORD_BITS)
    padded = np.zeros((rows, blocks * bits + 1), dtype=np.uint32)
    used = min(available, blocks * bits)
    padded[:, :used] = words[:, :used]
    codes = np.empty((rows, blocks, WORD_BITS), dtype=np.uint8)
    mask = np.uint32((1 << bits) - 1)
    for index in range(WORD_BITS):
        word, shift = divmod(index * bits, WORD_BITS)
        low = padded[:, word : word + blocks * bits : bits] if blocks else padded[:, :0]
        value = low >> np.uint32(shift)
        if shift + bits > WORD_BITS:
            value = value | (padded[:, word + 1 : word + 1 + blocks * bits : bits] << np.uint32(WORD_BITS - shift))
        codes[:, :, index] = (value & mask).astype(np.uint8)
    return codes.reshape(rows, blocks * WORD_BITS)[:, :count]
