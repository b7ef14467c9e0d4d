"""The lattice of every format, and the way from a quantized tensor onto it and back: one reader and writer a family."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halfpint.formats import ggml
from halfpint.formats.affine import Affine
from halfpint.formats.float8 import CODES, Float8
from halfpint.formats.ggml import GgmlBlocks
from halfpint.formats.levels import Levels
from halfpint.solvers.scalar_grid import Grid, Lattice
from halfpint.tensors import Array, FloatArray, Format, QuantizedTensor

_HALF = np.dtype(np.float16)


def supports(fmt: Format) -> bool:
    """Whether the format has a lattice: all have, except plain floats, which have nothing to choose."""
    return type(fmt) in _FAMILIES


def lattice_of(fmt: Format, columns: int) -> Lattice:
    """Describe a format; `columns` counts where a scale belongs to the whole row."""
    return _FAMILIES[type(fmt)].lattice(fmt, columns)


def read(quantized: QuantizedTensor) -> Grid:
    """Take a quantized tensor apart; its decoded values are those of the grid, up to the last bit."""
    return _FAMILIES[type(quantized.format)].read(quantized)


def write(grid: Grid, fitted: QuantizedTensor) -> QuantizedTensor:
    """Put a grid back into the parts of its format.

    Parameters
    ----------
    grid : Grid
    fitted : QuantizedTensor
        What the grid was read from, or a tensor of its shape: gives the parts that a solver leaves alone.
    """
    return QuantizedTensor(
        fitted.format, fitted.shape, MappingProxyType({**_FAMILIES[type(fitted.format)].write(grid, fitted)})
    )


@dataclass(frozen=True, slots=True)
class _Family:
    lattice: Callable[[Any, int], Lattice]
    read: Callable[[QuantizedTensor], Grid]
    write: Callable[[Grid, QuantizedTensor], Mapping[str, Array]]


def _zeros(scale: FloatArray) -> tuple[NDArray[np.int16], NDArray[np.int16]]:
    """Indices into tables of one entry."""
    return np.zeros(scale.shape, np.int16), np.zeros(scale.shape, np.int16)


def _affine_lattice(fmt: Affine, columns: int) -> Lattice:
    group = fmt.group_size or columns
    table = np.arange(fmt.lowest, fmt.highest + 1, dtype=np.float32)
    if fmt.symmetric:
        return Lattice(table, group, group, fmt.scale_type)
    return Lattice(table, group, group, fmt.scale_type, "tied", submins=-table)


def _read_affine(quantized: QuantizedTensor) -> Grid:
    fmt = quantized.format
    assert isinstance(fmt, Affine)
    lattice = _affine_lattice(fmt, quantized.shape[1])
    scale = quantized.parts["scales"].astype(np.float32)
    indices = (quantized.parts["codes"].astype(np.int16) - fmt.lowest).astype(np.uint8)
    subscale, submin = _zeros(scale)
    if fmt.symmetric:
        return Grid(lattice, indices, scale, np.zeros_like(scale), subscale, submin)
    return Grid(lattice, indices, scale, scale.copy(), subscale, quantized.parts["zero_points"].astype(np.int16))


def _write_affine(grid: Grid, fitted: QuantizedTensor) -> Mapping[str, Array]:
    fmt = fitted.format
    assert isinstance(fmt, Affine)
    codes = (grid.indices.astype(np.int16) + fmt.lowest).astype(np.int8 if fmt.symmetric else np.uint8)
    parts = {"codes": codes, "scales": grid.scale.astype(fmt.scale_type)}
    return parts if fmt.symmetric else {**parts, "zero_points": grid.submin.astype(np.uint8)}


def _ascending(table: FloatArray) -> NDArray[np.uint8]:
    """Codes in the order of their finite levels; of two zeros, the positive one only."""
    codes = [code for code in np.argsort(table, kind="stable") if np.isfinite(table[code])]
    return np.array([code for code in codes if table[code] != 0 or not np.signbit(table[code])], np.uint8)


def _inverse(order: NDArray[np.uint8], zero: int) -> NDArray[np.uint8]:
    """Index of each code; minus zero gets that of `zero`, the code of plus zero."""
    index = np.full(256, np.flatnonzero(order == zero)[0], np.uint8)
    index[order] = np.arange(len(order))
    return index


@functools.cache
def _level_codes(fmt: Levels) -> NDArray[np.uint8]:
    return _ascending(fmt.table)


@functools.cache
def _e4m3_codes() -> NDArray[np.uint8]:
    return _ascending(np.arange(256, dtype=np.uint8).view(CODES).astype(np.float32))


def _levels_lattice(fmt: Levels, _: int) -> Lattice:
    table = fmt.table[_level_codes(fmt)]
    if fmt.name == "nf4":
        return Lattice(table, fmt.group_size, fmt.group_size, np.dtype(np.float32))
    if fmt.name == "mxfp4":
        # Exponent 0 is 2^-127, which float32 holds as a subnormal; 255 is NaN.
        subscales = np.ldexp(np.float32(1), np.arange(255) - 127).astype(np.float32)
    else:
        # From e4m3's smallest subnormal to its largest number; zero is not a scale.
        subscales = np.arange(1, 127, dtype=np.uint8).view(CODES).astype(np.float32)
    return Lattice(table, fmt.group_size, fmt.group_size, None, subscales=subscales)


def _read_levels(quantized: QuantizedTensor) -> Grid:
    fmt, parts = quantized.format, quantized.parts
    assert isinstance(fmt, Levels)
    lattice = _levels_lattice(fmt, quantized.shape[1])
    indices = _inverse(_level_codes(fmt), int(np.flatnonzero(fmt.table == 0)[0]))[parts["codes"]]
    scale = np.ones(parts["scales"].shape, np.float32)
    subscale, submin = _zeros(scale)
    if fmt.name == "nf4":
        scale = parts["scales"].astype(np.float32)
    elif fmt.name == "mxfp4":
        subscale = parts["scales"].astype(np.int16)
    else:
        scale /= parts["global_scale"]
        subscale = parts["scales"].view(np.uint8).astype(np.int16) - np.int16(1)
    return Grid(lattice, indices, scale, np.zeros_like(scale), subscale, submin)


def _write_levels(grid: Grid, fitted: QuantizedTensor) -> Mapping[str, Array]:
    fmt = fitted.format
    assert isinstance(fmt, Levels)
    parts = {**fitted.parts, "codes": _level_codes(fmt)[grid.indices]}
    if fmt.name == "nf4":
        parts["scales"] = grid.scale
    elif fmt.name == "mxfp4":
        parts["scales"] = grid.subscale.astype(np.uint8)
    else:
        parts["scales"] = (grid.subscale + np.int16(1)).astype(np.uint8).view(CODES)
    return parts


def _float8_lattice(fmt: Float8, columns: int) -> Lattice:
    table = _e4m3_codes().view(CODES).astype(np.float32)
    group = fmt.block or columns
    return Lattice(table, group, group, None if fmt.block else np.dtype(np.float32))


def _read_float8(quantized: QuantizedTensor) -> Grid:
    fmt, parts = quantized.format, quantized.parts
    assert isinstance(fmt, Float8)
    rows, columns = quantized.shape
    lattice = _float8_lattice(fmt, columns)
    scale = np.repeat(parts["scales"], fmt.block or 1, axis=0)[:rows]
    indices = _inverse(_e4m3_codes(), 0)[parts["codes"].view(np.uint8)]
    return Grid(lattice, indices, scale, np.zeros_like(scale), *_zeros(scale))


def _write_float8(grid: Grid, fitted: QuantizedTensor) -> Mapping[str, Array]:
    fmt = fitted.format
    assert isinstance(fmt, Float8)
    codes = _e4m3_codes()[grid.indices].view(CODES)
    return {"codes": codes, "scales": fitted.parts["scales"] if fmt.block else grid.scale}


def _ggml_lattice(fmt: GgmlBlocks, _: int) -> Lattice:
    table = np.array(ggml.levels_of(fmt), np.float32)[_first_code(fmt) :]
    low, high = fmt.subscale_range
    subscales = np.arange(low, high + 1, dtype=np.float32)
    if not fmt.has_minimum:
        return Lattice(table, fmt.group_columns, fmt.block_columns, _HALF, subscales=subscales)
    submins = -subscales if len(subscales) > 1 else np.ones(1, np.float32)
    return Lattice(table, fmt.group_columns, fmt.block_columns, _HALF, "own", subscales, submins)


def _first_code(fmt: GgmlBlocks) -> int:
    # -128 is never written in q8_0: see the format.
    return 1 if fmt.name == "q8_0" else 0


def _read_ggml(quantized: QuantizedTensor) -> Grid:
    fmt = quantized.format
    assert isinstance(fmt, GgmlBlocks)
    rows, columns = quantized.shape
    fields = ggml.unpack(quantized.parts["blocks"].reshape(-1, fmt.block_bytes), fmt)
    scale = fields.scale.astype(np.float32).reshape(rows, -1)
    minimum = np.zeros_like(scale) if fields.minimum is None else fields.minimum.astype(np.float32).reshape(rows, -1)
    groups = (rows, columns // fmt.group_columns)
    low = fmt.subscale_range[0]

    def index(integers: NDArray[np.int32] | None) -> NDArray[np.int16]:
        return np.zeros(groups, np.int16) if integers is None else (integers - low).astype(np.int16).reshape(groups)

    indices = (fields.codes - np.uint8(_first_code(fmt))).reshape(rows, columns)
    return Grid(_ggml_lattice(fmt, columns), indices, scale, minimum, index(fields.subscales), index(fields.submins))


def _write_ggml(grid: Grid, fitted: QuantizedTensor) -> Mapping[str, Array]:
    fmt = fitted.format
    assert isinstance(fmt, GgmlBlocks)
    blocks = fitted.parts["blocks"]
    low = fmt.subscale_range[0]

    def integers(index: NDArray[np.int16]) -> NDArray[np.int32]:
        return (index.astype(np.int32) + low).reshape(-1, fmt.groups)

    nested = fmt.subscale_range != (1, 1)
    fields = ggml.BlockFields(
        (grid.indices + np.uint8(_first_code(fmt))).reshape(-1, fmt.block_columns),
        grid.scale.astype(_HALF).reshape(-1),
        grid.minimum.astype(_HALF).reshape(-1) if fmt.has_minimum else None,
        integers(grid.subscale) if nested else None,
        integers(grid.submin) if nested and fmt.has_minimum else None,
    )
    return {"blocks": ggml.pack(fields, fmt).reshape(blocks.shape)}


_FAMILIES: Mapping[type, _Family] = MappingProxyType(
    {
        Affine: _Family(_affine_lattice, _read_affine, _write_affine),
        Levels: _Family(_levels_lattice, _read_levels, _write_levels),
        Float8: _Family(_float8_lattice, _read_float8, _write_float8),
        GgmlBlocks: _Family(_ggml_lattice, _read_ggml, _write_ggml),
    }
)
