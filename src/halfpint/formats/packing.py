"""Codes of a few bits in 32-bit words: the only shifts and masks outside of GGUF's own blocks.

The stream is dense and little-endian: code `i` of a row occupies bits [i * bits, (i + 1) * bits), counted from the
lowest bit of word 0; a code may straddle two words. This is what compressed-tensors (0.18 and later) and MLX store;
for 2, 4 and 8 bits no code straddles, and every version agrees.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from halfpint.errors import ShapeError

WORD_BITS = 32

_LONG_CODES = 8
"""Codes that are handled at a time: eight codes of one byte fill a 64-bit integer, packed they are `bits` bytes."""

_PIECE = 1 << 18
"""Codes whose intermediate integers stay in the second-level cache."""


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
    words = np.zeros((rows, words_per_row(count, bits)), dtype="<u4")
    octets = words.view(np.uint8)

    def pack(begin: int, end: int) -> None:
        packed = _squeeze(_longs(codes[begin:end]), bits)
        used = min(packed.shape[1], octets.shape[1])
        octets[begin:end, :used] = packed[:, :used]

    _in_pieces(rows, count, pack)
    return words


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
    octets = np.ascontiguousarray(words, dtype="<u4").view(np.uint8).reshape(rows, 4 * available)
    codes = np.empty((rows, count), dtype=np.uint8)
    longs = -(-count // _LONG_CODES)

    def unpack(begin: int, end: int) -> None:
        packed = np.zeros((end - begin, longs * bits), dtype=np.uint8)
        used = min(packed.shape[1], octets.shape[1])
        packed[:, :used] = octets[begin:end, :used]
        codes[begin:end] = _stretch(packed, bits)[:, :count]

    _in_pieces(rows, count, unpack)
    return codes


def _in_pieces(rows: int, count: int, work: Callable[[int, int], None]) -> None:
    step = max(1, _PIECE // max(1, count))
    for begin in range(0, rows, step):
        work(begin, min(rows, begin + step))


def _longs(codes: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Eight codes an integer, the first one lowest; a short row is filled with zeros."""
    rows, count = codes.shape
    if count % _LONG_CODES:
        padded = np.zeros((rows, count + -count % _LONG_CODES), dtype=np.uint8)
        padded[:, :count] = codes
        codes = padded
    return np.ascontiguousarray(codes).view("<u8")


def _squeeze(longs: NDArray[np.uint64], bits: int) -> NDArray[np.uint8]:
    """Drop the empty bits between the eight codes of each integer: [rows, longs] -> [rows, longs * bits] bytes.

    Neighbours close up in three steps: codes to pairs, pairs to fours, fours to eights.
    """
    if bits == 8:
        return longs.view(np.uint8)
    for width in (1, 2, 4):
        low = _mask(width, bits)
        shift = np.uint64(width * (8 - bits))
        longs = (longs & low) | ((longs & ~low) >> shift)
    octets = longs.view(np.uint8).reshape(*longs.shape, 8)[:, :, :bits]
    return np.ascontiguousarray(octets).reshape(longs.shape[0], -1)


def _stretch(packed: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Undo `_squeeze`: [rows, longs * bits] bytes -> [rows, longs * 8] codes."""
    if bits == 8:
        return packed
    rows = packed.shape[0]
    octets = np.zeros((rows, packed.shape[1] // bits, 8), dtype=np.uint8)
    octets[:, :, :bits] = packed.reshape(rows, -1, bits)
    longs = octets.view("<u8")[:, :, 0]
    for width in (4, 2, 1):
        low = _mask(width, bits)
        shift = np.uint64(width * (8 - bits))
        longs = (longs & low) | ((longs << shift) & (low << np.uint64(8 * width)))
    return np.ascontiguousarray(longs).view(np.uint8).reshape(rows, -1)


def _mask(width: int, bits: int) -> np.uint64:
    """Ones where the first of each two runs of `width` closed-up codes lies, runs being 8 * width bits apart."""
    run = (1 << (width * bits)) - 1
    return np.uint64(sum(run << start for start in range(0, 64, 16 * width)))
