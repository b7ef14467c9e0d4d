"""Where each field of a block lies: bytes to fields and back, exactly, for every block format.

The bit orders are those of ggml's block structs (ggml-common.h) and dequantizers (ggml-quants.c). BlockFields here are
in the order of the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halfpint.formats.ggml.blocks import GgmlBlocks

Bytes = NDArray[Any]  # uint8 all through; NumPy's own types widen on every shift
Halves = NDArray[np.float16]
Integers = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class BlockFields:
    """What n blocks hold.

    Attributes
    ----------
    codes : uint8 [n, block_columns]
        Stored codes, 0 to 2**bits - 1; for q8_0 the level plus 128.
    scale : float16 [n]
        The block's scale.
    minimum : float16 [n] or None
        The block's minimum, or scale of minima, where the format has one.
    subscales : int32 [n, groups] or None
        Integer scale of each group, with its sign.
    submins : int32 [n, groups] or None
        Integer minimum of each group.
    """

    codes: Bytes
    scale: Halves
    minimum: Halves | None = None
    subscales: Integers | None = None
    submins: Integers | None = None


def unpack(blocks: Bytes, fmt: GgmlBlocks) -> BlockFields:
    """Read the fields of blocks, uint8 [n, block_bytes]."""
    return _LAYOUTS[fmt.name][0](blocks)


def pack(fields: BlockFields, fmt: GgmlBlocks) -> Bytes:
    """Write fields into blocks, uint8 [n, block_bytes]; the inverse of `unpack`.

    A scale of minus zero is written as zero, so that equal numbers have equal bytes.
    """
    return np.concatenate(_LAYOUTS[fmt.name][1](fields), axis=1)


def _half(blocks: Bytes, start: int) -> Halves:
    return np.ascontiguousarray(blocks[:, start : start + 2]).view("<f2")[:, 0]


def _half_bytes(values: Halves | None) -> Bytes:
    assert values is not None
    return (values + np.float16(0)).astype("<f2")[:, None].view(np.uint8)


def _nibbles(packed: Bytes, run: int) -> Bytes:
    """Runs of `run` low nibbles, each followed by the run of the same bytes' high nibbles."""
    rows = packed.reshape(len(packed), -1, 1, run)
    return np.concatenate([rows & 15, rows >> 4], axis=2).reshape(len(packed), -1)


def _pack_nibbles(codes: Bytes, run: int) -> Bytes:
    pairs = codes.reshape(len(codes), -1, 2, run)
    packed: Bytes = pairs[:, :, 0] | pairs[:, :, 1] << 4
    return packed.reshape(len(codes), -1)


_CRUMB_SHIFTS = np.array([0, 2, 4, 6], np.uint8)[:, None]
_PLANE_SHIFTS = np.arange(8, dtype=np.uint8)[:, None]


def _crumbs(packed: Bytes) -> Bytes:
    """Two bits each: 32 bytes hold four runs of 32 values."""
    return (packed.reshape(len(packed), -1, 1, 32) >> _CRUMB_SHIFTS & 3).reshape(len(packed), -1)


def _pack_crumbs(codes: Bytes) -> Bytes:
    runs = codes.reshape(len(codes), -1, 4, 32) << _CRUMB_SHIFTS
    packed: Bytes = np.bitwise_or.reduce(runs, axis=2)
    return packed.reshape(len(codes), -1)


def _planes(packed: Bytes) -> Bytes:
    """One bit each: bit j of byte i belongs to value 32 j + i of 256."""
    return (packed[:, None, :] >> _PLANE_SHIFTS & 1).reshape(len(packed), -1)


def _pack_planes(bits: Bytes) -> Bytes:
    packed: Bytes = np.bitwise_or.reduce(bits.reshape(len(bits), 8, 32) << _PLANE_SHIFTS, axis=1)
    return packed


def _bits(packed: Bytes) -> Bytes:
    """One bit each in the order of the values."""
    return np.unpackbits(packed, axis=1, bitorder="little")


def _pack_bits(bits: Bytes) -> Bytes:
    return np.packbits(bits, axis=1, bitorder="little")


def _unpack_q8_0(blocks: Bytes) -> BlockFields:
    return BlockFields(blocks[:, 2:] ^ 128, _half(blocks, 0))


def _pack_q8_0(fields: BlockFields) -> list[Bytes]:
    return [_half_bytes(fields.scale), fields.codes ^ 128]


def _unpack_q4_0(blocks: Bytes) -> BlockFields:
    return BlockFields(_nibbles(blocks[:, 2:], 16), _half(blocks, 0))


def _pack_q4_0(fields: BlockFields) -> list[Bytes]:
    return [_half_bytes(fields.scale), _pack_nibbles(fields.codes, 16)]


def _unpack_q4_1(blocks: Bytes) -> BlockFields:
    return BlockFields(_nibbles(blocks[:, 4:], 16), _half(blocks, 0), _half(blocks, 2))


def _pack_q4_1(fields: BlockFields) -> list[Bytes]:
    return [_half_bytes(fields.scale), _half_bytes(fields.minimum), _pack_nibbles(fields.codes, 16)]


def _unpack_q5_0(blocks: Bytes) -> BlockFields:
    return BlockFields(_nibbles(blocks[:, 6:], 16) | _bits(blocks[:, 2:6]) << 4, _half(blocks, 0))


def _pack_q5_0(fields: BlockFields) -> list[Bytes]:
    return [_half_bytes(fields.scale), _pack_bits(fields.codes >> 4), _pack_nibbles(fields.codes & 15, 16)]


def _unpack_q5_1(blocks: Bytes) -> BlockFields:
    codes = _nibbles(blocks[:, 8:], 16) | _bits(blocks[:, 4:8]) << 4
    return BlockFields(codes, _half(blocks, 0), _half(blocks, 2))


def _pack_q5_1(fields: BlockFields) -> list[Bytes]:
    halves = [_half_bytes(fields.scale), _half_bytes(fields.minimum)]
    return [*halves, _pack_bits(fields.codes >> 4), _pack_nibbles(fields.codes & 15, 16)]


def _unpack_q2_k(blocks: Bytes) -> BlockFields:
    subs = blocks[:, :16].astype(np.int32)
    return BlockFields(_crumbs(blocks[:, 16:80]), _half(blocks, 80), _half(blocks, 82), subs & 15, subs >> 4)


def _pack_q2_k(fields: BlockFields) -> list[Bytes]:
    assert fields.subscales is not None
    assert fields.submins is not None
    subs = (fields.subscales | fields.submins << 4).astype(np.uint8)
    return [subs, _pack_crumbs(fields.codes), _half_bytes(fields.scale), _half_bytes(fields.minimum)]


def _unpack_q3_k(blocks: Bytes) -> BlockFields:
    codes = _crumbs(blocks[:, 32:96]) | _planes(blocks[:, :32]) << 2
    # 16 sub-scales of six bits, biased by 32: eight bytes of nibbles, then four bytes of the upper two bits.
    low = _nibbles(blocks[:, 96:104], 8)
    high = (blocks[:, 104:108, None].transpose(0, 2, 1) >> _CRUMB_SHIFTS & 3).reshape(-1, 16)
    return BlockFields(codes, _half(blocks, 108), subscales=(low | high << 4).astype(np.int32) - 32)


def _pack_q3_k(fields: BlockFields) -> list[Bytes]:
    assert fields.subscales is not None
    subs = (fields.subscales + 32).astype(np.uint8)
    high = np.bitwise_or.reduce((subs >> 4).reshape(-1, 4, 4) << _CRUMB_SHIFTS, axis=1)
    codes = [_pack_planes(fields.codes >> 2), _pack_crumbs(fields.codes & 3)]
    return [*codes, _pack_nibbles(subs & 15, 8), high, _half_bytes(fields.scale)]


def _six_bit_pairs(packed: Bytes) -> tuple[Integers, Integers]:
    """Read the 12 bytes of q4_k and q5_k: eight scales and eight minima of six bits each.

    Bytes 0-3 hold scales 0-3 in their low six bits and the top two bits of scales 4-7; bytes 4-7 the same of the
    minima; bytes 8-11 the low nibbles of scales 4-7, and of minima 4-7 above them.
    """
    first, second, third = (packed[:, start : start + 4].astype(np.int32) for start in (0, 4, 8))
    scales = np.concatenate([first & 63, third & 15 | (first >> 6) << 4], axis=1)
    minima = np.concatenate([second & 63, third >> 4 | (second >> 6) << 4], axis=1)
    return scales, minima


def _pack_six_bit_pairs(scales: Integers | None, minima: Integers | None) -> Bytes:
    assert scales is not None
    assert minima is not None
    first = scales[:, :4] | (scales[:, 4:] >> 4) << 6
    second = minima[:, :4] | (minima[:, 4:] >> 4) << 6
    third = scales[:, 4:] & 15 | (minima[:, 4:] & 15) << 4
    return np.concatenate([first, second, third], axis=1).astype(np.uint8)


def _unpack_q4_k(blocks: Bytes) -> BlockFields:
    scales, minima = _six_bit_pairs(blocks[:, 4:16])
    return BlockFields(_nibbles(blocks[:, 16:], 32), _half(blocks, 0), _half(blocks, 2), scales, minima)


def _pack_q4_k(fields: BlockFields) -> list[Bytes]:
    halves = [_half_bytes(fields.scale), _half_bytes(fields.minimum)]
    return [*halves, _pack_six_bit_pairs(fields.subscales, fields.submins), _pack_nibbles(fields.codes, 32)]


def _unpack_q5_k(blocks: Bytes) -> BlockFields:
    scales, minima = _six_bit_pairs(blocks[:, 4:16])
    codes = _nibbles(blocks[:, 48:], 32) | _planes(blocks[:, 16:48]) << 4
    return BlockFields(codes, _half(blocks, 0), _half(blocks, 2), scales, minima)


def _pack_q5_k(fields: BlockFields) -> list[Bytes]:
    halves = [_half_bytes(fields.scale), _half_bytes(fields.minimum)]
    subs = _pack_six_bit_pairs(fields.subscales, fields.submins)
    return [*halves, subs, _pack_planes(fields.codes >> 4), _pack_nibbles(fields.codes & 15, 32)]


def _unpack_q6_k(blocks: Bytes) -> BlockFields:
    codes = _nibbles(blocks[:, :128], 64) | _crumbs(blocks[:, 128:192]) << 4
    return BlockFields(codes, _half(blocks, 208), subscales=blocks[:, 192:208].view(np.int8).astype(np.int32))


def _pack_q6_k(fields: BlockFields) -> list[Bytes]:
    assert fields.subscales is not None
    codes = [_pack_nibbles(fields.codes & 15, 64), _pack_crumbs(fields.codes >> 4)]
    return [*codes, fields.subscales.astype(np.int8).view(np.uint8), _half_bytes(fields.scale)]


def _unpack_iq4_xs(blocks: Bytes) -> BlockFields:
    low = _nibbles(blocks[:, 4:8], 1)
    high = blocks[:, 2:4].repeat(4, axis=1) >> np.tile(_CRUMB_SHIFTS[:, 0], 2) & 3
    subscales = (low | high << 4).astype(np.int32) - 32
    return BlockFields(_nibbles(blocks[:, 8:], 16), _half(blocks, 0), subscales=subscales)


def _pack_iq4_xs(fields: BlockFields) -> list[Bytes]:
    assert fields.subscales is not None
    subs = (fields.subscales + 32).astype(np.uint8)
    high = np.bitwise_or.reduce((subs >> 4).reshape(-1, 2, 4) << _CRUMB_SHIFTS[:, 0], axis=2)
    return [_half_bytes(fields.scale), high, _pack_nibbles(subs & 15, 1), _pack_nibbles(fields.codes, 16)]


_Layout = tuple[Callable[[Bytes], BlockFields], Callable[[BlockFields], list[Bytes]]]

_LAYOUTS: Mapping[str, _Layout] = MappingProxyType(
    {
        "q8_0": (_unpack_q8_0, _pack_q8_0),
        "q4_0": (_unpack_q4_0, _pack_q4_0),
        "q4_1": (_unpack_q4_1, _pack_q4_1),
        "q5_0": (_unpack_q5_0, _pack_q5_0),
        "q5_1": (_unpack_q5_1, _pack_q5_1),
        "q2_k": (_unpack_q2_k, _pack_q2_k),
        "q3_k": (_unpack_q3_k, _pack_q3_k),
        "q4_k": (_unpack_q4_k, _pack_q4_k),
        "q5_k": (_unpack_q5_k, _pack_q5_k),
        "q6_k": (_unpack_q6_k, _pack_q6_k),
        "iq4_nl": (_unpack_q4_0, _pack_q4_0),
        "iq4_xs": (_unpack_iq4_xs, _pack_iq4_xs),
    }
)
