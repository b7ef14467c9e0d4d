"""From blocks back to float32: the same bits as ggml's dequantizers."""

from __future__ import annotations

import numpy as np

from halfpint.formats.ggml.block_layout import BlockFields, unpack
from halfpint.formats.ggml.blocks import GgmlBlocks, levels_of
from halfpint.tensors import FloatArray, QuantizedTensor


def decode(quantized: QuantizedTensor) -> FloatArray:
    """Decode to float32 [rows, columns], bit for bit what ggml and the `gguf` package give."""
    fmt = quantized.format
    assert isinstance(fmt, GgmlBlocks)
    blocks = quantized.parts["blocks"].reshape(-1, fmt.block_bytes)
    fields = unpack(blocks, fmt)
    levels = np.array(levels_of(fmt), np.float32)[fields.codes]
    scales, offsets = group_scales(fields)
    grouped = levels.reshape(len(blocks), scales.shape[1], -1)
    np.multiply(grouped, scales[:, :, None], out=grouped)
    if offsets is not None:
        np.add(grouped, offsets[:, :, None], out=grouped)
    return grouped.reshape(quantized.shape)


def group_scales(fields: BlockFields) -> tuple[FloatArray, FloatArray | None]:
    """Multiply scales out: a weight is `level * scale + offset`, with the scale and offset of its group.

    Returns
    -------
    scales : float32 [n, groups]
    offsets : float32 [n, groups] or None
        None where the format has no minimum; adding zero would turn -0.0 into 0.0.
    """
    scale = fields.scale.astype(np.float32)[:, None]
    if fields.subscales is None:
        return scale, None if fields.minimum is None else fields.minimum.astype(np.float32)[:, None]
    scales = scale * fields.subscales.astype(np.float32)
    if fields.minimum is None or fields.submins is None:
        return scales, None
    return scales, -(fields.minimum.astype(np.float32)[:, None] * fields.submins.astype(np.float32))
