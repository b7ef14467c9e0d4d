"""From float32 to blocks, by search; the reference of the native encoders, which give the same bytes."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from halfpint.errors import ShapeError
from halfpint.formats.ggml import nested, single
from halfpint.formats.ggml.block_layout import BlockFields, Halves, pack
from halfpint.formats.ggml.blocks import IQ4_LEVELS, LARGEST_SCALE, GgmlBlocks
from halfpint.formats.ggml.fitting import FittedLevels, written_levels
from halfpint.formats.ggml.importance import positive_weights
from halfpint.tensors import Array, FloatArray

_BLOCKS_AT_ONCE = 4096
"""Blocks that are searched together: enough for NumPy, few enough to keep temporaries small."""


def _steps(start: float, stop: float, count: int) -> tuple[float, ...]:
    return tuple(start + (stop - start) * index / (count - 1) for index in range(count))


SEARCHES: Mapping[str, nested.Search] = MappingProxyType(
    {
        "q8_0": nested.Search(_steps(123, 127.5, 16), ()),
        "q4_0": nested.Search(_steps(-9, -6.375, 8) + _steps(5.5, 8.125, 8), ()),
        "q5_0": nested.Search(_steps(-17.5, -13.125, 8) + _steps(12, 16.375, 8), ()),
        "iq4_nl": nested.Search(_steps(-140, -91, 8) + _steps(88, 130, 7), ()),
        "q4_1": nested.Search(_steps(11, 16.25, 8), ()),
        "q5_1": nested.Search(_steps(26, 33, 8), ()),
        "q2_k": nested.Search(_steps(1.5, 4.25, 8), _steps(10, 15, 11)),
        "q3_k": nested.Search(_steps(-5, -2.5, 6) + _steps(2.25, 4.125, 6), _steps(-32, -24, 5) + _steps(23, 31, 5)),
        "q4_k": nested.Search(_steps(12, 16.5, 8), _steps(56, 63, 8)),
        "q5_k": nested.Search(_steps(26, 33, 8), _steps(56, 63, 8)),
        "q6_k": nested.Search(_steps(-34, -27, 10) + _steps(27, 33.5, 10), (-128.0, -125.0, 123.0, 127.0)),
        "iq4_xs": nested.Search(_steps(-140, -91, 8) + _steps(88, 130, 7), _steps(-32, -24, 5) + _steps(23, 31, 5)),
    }
)
"""Where the search for each format starts, from measurements on trained and on random weights."""


def largest_weight(fmt: GgmlBlocks) -> float:
    """Give the largest magnitude of a weight that the format's half-precision scales can reach."""
    if fmt.has_minimum:
        return LARGEST_SCALE * fmt.subscale_range[1]
    levels = written_levels(fmt)
    subscale = max(abs(limit) for limit in fmt.subscale_range)
    return LARGEST_SCALE * subscale * max(abs(levels.low), levels.high)


def check_magnitude(largest: float, fmt: GgmlBlocks) -> None:
    """Refuse weights beyond the range of the scales.

    Raises
    ------
    ShapeError
        If `largest` exceeds what the format reaches: an infinite scale would make the block useless.
    """
    if largest > largest_weight(fmt):
        raise ShapeError(
            f"a weight of magnitude {largest:g} is beyond {largest_weight(fmt):g}, where the half-precision "
            f"scales of {fmt.name} end; keep this tensor in bf16 or f32"
        )


def encode(weight: FloatArray, fmt: GgmlBlocks, importance: Array | None) -> Mapping[str, Array]:
    """Search the scales, minima and codes of every block for the least weighted squared error.

    Parameters
    ----------
    weight : float32 [rows, columns]
        Finite; columns are whole blocks.
    fmt : GgmlBlocks
        The target format.
    importance : float32 [columns] or [rows, columns], optional
        Non-negative weights of the squared error; `positive_weights` says how zeros are taken. None is all one.

    Returns
    -------
    Mapping
        `blocks`, uint8 [rows, columns / block_columns, block_bytes]. The weighted squared error of every block is
        at most that of plain rounding, and of zero. A block of zeros decodes to zeros.

    Raises
    ------
    ShapeError
        If a weight is beyond the range of the format's scales, or the importance has another shape.
    NonFiniteError
        If an importance is negative, NaN or infinite.
    """
    rows, columns = weight.shape
    check_magnitude(float(np.abs(weight).max(initial=0)), fmt)
    blocks = np.ascontiguousarray(weight, np.float32).reshape(-1, fmt.block_columns)
    weights = positive_weights(importance, weight.shape, fmt.block_columns)
    encoded = np.empty((len(blocks), fmt.block_bytes), np.uint8)
    for start in range(0, len(blocks), _BLOCKS_AT_ONCE):
        end = start + _BLOCKS_AT_ONCE
        values = _positions_first(blocks[start:end], fmt)
        block_weights = np.ones_like(values) if weights is None else _positions_first(weights[start:end], fmt)
        encoded[start:end] = pack(_search(values, block_weights, fmt), fmt)
    return {"blocks": encoded.reshape(rows, columns // fmt.block_columns, fmt.block_bytes)}


def _positions_first(blocks: FloatArray, fmt: GgmlBlocks) -> FloatArray:
    """[blocks, block_columns] to [positions, groups, blocks], or [positions, blocks] for a single group."""
    grouped = blocks.reshape(len(blocks), fmt.groups, fmt.group_columns).transpose(2, 1, 0)
    return np.ascontiguousarray(grouped if fmt.subscale_range != (1, 1) else grouped[:, 0])


def _search(values: FloatArray, weights: FloatArray, fmt: GgmlBlocks) -> BlockFields:
    levels, search = written_levels(fmt), SEARCHES[fmt.name]
    if fmt.subscale_range == (1, 1):
        encode_single = single.encode_affine if fmt.has_minimum else single.encode_scaled
        block = encode_single(values, weights, levels, search.targets)
        return BlockFields(_codes(block.level.T, fmt), _half(block.scale), _half_or_none(block.minimum))
    encode_nested = nested.encode_affine if fmt.has_minimum else nested.encode_scaled
    found = encode_nested(values, weights, levels, FittedLevels(*fmt.subscale_range), search)
    level = found.level.transpose(2, 1, 0).reshape(-1, fmt.block_columns)
    return BlockFields(
        _codes(level, fmt),
        _half(found.scale),
        _half_or_none(found.minimum),
        found.subscale.T.astype(np.int32),
        None if found.submin is None else found.submin.T.astype(np.int32),
    )


def _half(values: FloatArray) -> Halves:
    return values.astype(np.float16)


def _half_or_none(values: FloatArray | None) -> Halves | None:
    return None if values is None else _half(values)


def _codes(level: FloatArray, fmt: GgmlBlocks) -> Array:
    """FittedLevels to codes, [blocks, block_columns]."""
    if fmt.name.startswith("iq4"):
        return np.searchsorted(np.array(IQ4_LEVELS, np.float32), level).astype(np.uint8)
    return (level - np.float32(fmt.lowest_level)).astype(np.uint8)
