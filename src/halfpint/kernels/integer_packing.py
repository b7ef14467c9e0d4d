"""From the parts of a format to the layout that integer products read (native/isa/integer.hpp)."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from halfpint.errors import CheckpointError
from halfpint.formats.affine import Affine
from halfpint.formats.ggml import GgmlBlocks
from halfpint.formats.levels import Levels
from halfpint.kernels import _native
from halfpint.kernels.packed import check_parts
from halfpint.tensors import Array, QuantizedTensor

_SCALE_KINDS = {np.dtype(np.float32): "f32", np.dtype(np.float16): "f16", np.dtype(ml_dtypes.bfloat16): "bf16"}
_LARGEST_GROUP = 256
_SMALLEST_GROUP = 16


def packs(weight: QuantizedTensor) -> bool:
    """Whether there is an integer product for a weight's format."""
    match weight.format:
        case GgmlBlocks() | Levels():
            return True
        case Affine():
            return layout_group(weight.format.group_size, weight.shape[1]) is not None
        case _:
            return False


def layout_group(group_size: int, columns: int) -> int | None:
    """Columns that share a scale in the layout: 16 to 256, 0 for the whole row, None when groups do not fit it.

    Parameters
    ----------
    group_size : int
        Of the format; 0 for the whole row. Groups of other sizes are split into equal parts with the same scale.
    columns : int
    """
    if group_size == 0 or group_size >= columns:
        return 0
    group = _LARGEST_GROUP
    while group >= _SMALLEST_GROUP:
        if group_size % group == 0:
            return group
        group //= 2
    return None


def pack_integers(weight: QuantizedTensor) -> tuple[_native.PackedIntegers, str]:
    """Copy a weight into the layout; gives its handle and the name of its kind.

    Raises
    ------
    ShapeError
        If its parts do not have the shapes that its format says.
    CheckpointError
        If a scale of nvfp4 is not a number.
    """
    check_parts(weight)
    match weight.format:
        case Affine():
            return _pack_affine(weight, weight.format)
        case Levels():
            return _pack_levels(weight, weight.format)
        case _:
            kind = weight.format.name
            packed = _native.PackedIntegers(kind, *weight.shape, "f16", 0, False, None, 1.0)
            packed.pack(_bytes(weight.parts["blocks"]), None, None, 0)
            return packed, kind


def _pack_affine(weight: QuantizedTensor, fmt: Affine) -> tuple[_native.PackedIntegers, str]:
    columns = weight.shape[1]
    scales = weight.parts["scales"]
    kind = f"int{fmt.bits}"
    group = layout_group(fmt.group_size, columns)
    assert group is not None
    zero_points = None if fmt.symmetric else _bytes(weight.parts["zero_points"])
    packed = _native.PackedIntegers(
        kind, *weight.shape, _SCALE_KINDS[scales.dtype], group, zero_points is not None, None, 1.0
    )
    packed.pack(_bytes(weight.parts["codes"]), _bytes(scales), zero_points, fmt.group_size or columns)
    return packed, kind


def _pack_levels(weight: QuantizedTensor, fmt: Levels) -> tuple[_native.PackedIntegers, str]:
    scales = _bytes(weight.parts["scales"])
    outer = 1.0
    if fmt.name == "nvfp4":
        outer = float(weight.parts["global_scale"][0])
        if ((scales & 127) == 127).any():
            raise CheckpointError("nvfp4: a scale is not a number; the weights of its group are lost")
    levels = np.ascontiguousarray(fmt.table, np.float32)
    packed = _native.PackedIntegers(fmt.name, *weight.shape, "f32", 0, False, levels, outer)
    packed.pack(_bytes(weight.parts["codes"]), scales, None, fmt.group_size)
    return packed, fmt.name


def _bytes(array: Array) -> Array:
    """Bytes of an array, uint8 [nbytes]; contiguous arrays are viewed, others copied."""
    contiguous: np.ndarray[Any, Any] = np.ascontiguousarray(array)
    return contiguous.reshape(-1).view(np.uint8)
