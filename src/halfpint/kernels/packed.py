"""Weights as the native products want them: compact bytes, most of them the very arrays that were read.

Only codes of four bits or less change their words: two go into a byte, which halves their memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from halfpint.errors import ShapeError, UnsupportedError
from halfpint.formats.affine import Affine
from halfpint.formats.float8 import Float8
from halfpint.formats.ggml import GgmlBlocks
from halfpint.formats.levels import Levels
from halfpint.formats.plain import Plain
from halfpint.kernels import _native
from halfpint.tensors import Array, FloatArray, QuantizedTensor

_PLAIN_KINDS = {np.dtype(np.float32): "f32", np.dtype(np.float16): "f16", np.dtype(ml_dtypes.bfloat16): "bf16"}


@dataclass(frozen=True, slots=True)
class Packed:
    """A native handle, with what it holds.

    Attributes
    ----------
    handle : _native.PackedWeight
        Products and decoding.
    shape : tuple of int
        [rows, columns].
    kind : str
        The native kind: a plain or GGUF format's name, `codes4` or `codes8`.
    nbytes : int
        Bytes of all arrays kept alive.
    """

    handle: _native.PackedWeight
    shape: tuple[int, int]
    kind: str
    nbytes: int


def pack(weight: Array | QuantizedTensor) -> Packed:
    """Put a weight into the form that products read.

    Parameters
    ----------
    weight : Array [rows, columns] of float32, float16 or bfloat16, or QuantizedTensor
        Contiguous arrays are kept, not copied: they may be maps of a file.

    Raises
    ------
    ShapeError
        If the weight is no matrix, or its parts do not have the shapes that its format says.
    UnsupportedError
        If the dtype or format has no native product.
    """
    if not isinstance(weight, QuantizedTensor):
        return _pack_plain(weight)
    check_parts(weight)
    match weight.format:
        case Plain():
            return _pack_plain(weight.parts["values"])
        case GgmlBlocks():
            return _make(weight.format.name, _raw(weight.parts["blocks"]), weight.shape)
        case Affine():
            return _pack_affine(weight, weight.format)
        case Levels():
            return _pack_levels(weight, weight.format)
        case Float8():
            return _pack_float8(weight, weight.format)
        case _:
            raise UnsupportedError(f"no product over weights in {weight.format.name}")


def _pack_plain(values: Array) -> Packed:
    if values.ndim != 2:
        raise ShapeError(f"a weight of shape {list(values.shape)} is no matrix")
    if values.dtype not in _PLAIN_KINDS:
        raise UnsupportedError(f"no product over weights in {values.dtype}; there are f32, f16 and bf16")
    rows, columns = values.shape
    return _make(_PLAIN_KINDS[values.dtype], _raw(values), (rows, columns))


def _pack_affine(weight: QuantizedTensor, fmt: Affine) -> Packed:
    _, columns = weight.shape
    scales, group = weight.parts["scales"], fmt.group_size or columns
    zero_points = None if fmt.symmetric else _raw(weight.parts["zero_points"])
    width = 4 if fmt.bits <= 4 else 8
    codes = np.arange(1 << width)
    signed = fmt.symmetric
    levels = np.where(codes >= 1 << (width - 1), codes - (1 << width), codes) if signed else codes
    bytes_ = weight.parts["codes"].view(np.uint8)
    book = _Codebook(levels.astype(np.float32), _raw(scales), _PLAIN_KINDS[scales.dtype], group)
    return _make_codes(bytes_, width, weight.shape, book, zero_points)


def _pack_levels(weight: QuantizedTensor, fmt: Levels) -> Packed:
    scales = weight.parts["scales"]
    kind, table = "table", None
    every_byte = np.arange(256, dtype=np.uint8)
    if fmt.name == "mxfp4":
        with np.errstate(over="ignore"):  # byte 255 is no number; the reference decodes it to infinity
            table = np.ldexp(np.float32(1), every_byte.astype(np.int32) - 127).astype(np.float32)
    elif fmt.name == "nvfp4":
        table = every_byte.view(ml_dtypes.float8_e4m3fn).astype(np.float32) / weight.parts["global_scale"]
    else:
        kind = _PLAIN_KINDS[scales.dtype]
    book = _Codebook(fmt.table, _raw(scales), kind, fmt.group_size, scale_table=table)
    return _make_codes(weight.parts["codes"], 4, weight.shape, book, None)


def _pack_float8(weight: QuantizedTensor, fmt: Float8) -> Packed:
    levels = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float32)
    scales = _raw(weight.parts["scales"].astype(np.float32, copy=False))
    book = _Codebook(levels, scales, "f32", fmt.block or weight.shape[1], rows_per_scale=fmt.block or 1)
    return _make_codes(weight.parts["codes"].view(np.uint8), 8, weight.shape, book, None)


@dataclass(frozen=True, slots=True)
class _Codebook:
    levels: FloatArray
    scales: Array
    scale_kind: str
    group_columns: int
    rows_per_scale: int = 1
    scale_table: FloatArray | None = None


def _make(kind: str, data: Array, shape: tuple[int, int]) -> Packed:
    return Packed(_native.PackedWeight(kind, data, *shape), shape, kind, data.nbytes)


def _make_codes(codes: Array, width: int, shape: tuple[int, int], book: _Codebook, zero_points: Array | None) -> Packed:
    data = _raw(_two_per_byte(codes) if width == 4 else codes)
    kind = f"codes{width}"
    handle = _native.PackedWeight(kind, data, *shape)
    handle.set_codebook(
        levels=np.ascontiguousarray(book.levels, np.float32),
        scales=book.scales,
        scale_kind=book.scale_kind,
        group_columns=book.group_columns,
        rows_per_scale=book.rows_per_scale,
        zero_points=zero_points,
        scale_table=book.scale_table,
    )
    extra = book.scales.nbytes + (0 if zero_points is None else zero_points.nbytes)
    return Packed(handle, shape, kind, data.nbytes + extra)


def _two_per_byte(codes: Array) -> Array:
    """Codes of at most four bits, uint8 [rows, columns] -> uint8 [rows, ceil(columns / 2)], even columns low."""
    nibbles = codes & 15
    packed = nibbles[:, ::2].copy()
    packed[:, : codes.shape[1] // 2] |= nibbles[:, 1::2] << 4
    return packed


def _raw(array: Array) -> Array:
    """Give the bytes of an array, uint8 [nbytes]; contiguous arrays are viewed, others copied."""
    contiguous: np.ndarray[Any, Any] = np.ascontiguousarray(array)
    return contiguous.reshape(-1).view(np.uint8)


def check_parts(weight: QuantizedTensor) -> None:
    """Compare a weight's parts with what its format says.

    Raises
    ------
    ShapeError
        If one is missing, or has another shape or dtype.
    """
    for name, spec in weight.format.parts(*weight.shape).items():
        part = weight.parts.get(name)
        if part is None or part.shape != spec.shape or part.dtype != spec.dtype:
            found = "missing" if part is None else f"{part.dtype} {list(part.shape)}"
            raise ShapeError(
                f"{weight.format.name} {list(weight.shape)}: {name} is {found}, not {spec.dtype} {list(spec.shape)}"
            )
