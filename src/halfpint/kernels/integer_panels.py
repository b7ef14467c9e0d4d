"""What `IntegerLinear` computes with many tokens, and how far that is from its exact integer product.

With many tokens arithmetic is the limit and not memory, and a scale for every 32 columns costs a quarter of it. So the
native product (native/isa/panel.hpp) rounds 256 columns of a row to 8 bits again, in 127 steps to each side of what
their scales can hold at most. Activations get one scale per 32 columns, as with few tokens.

Measured on weights and activations of normal distribution, root mean square of the difference to the decoded weight
times the activations as they are, of 2048 columns: 0.9 % with many tokens and 0.5 % with few; where one activation of
200 is 15 times as large, 1.2 % and 1.0 %. Rounding weights again makes 0.7 % of it. The error of 4-bit weights
themselves is 7 to 8 %.
"""

from __future__ import annotations

import numpy as np

from halfpint import formats
from halfpint.formats import ggml
from halfpint.formats.affine import Affine
from halfpint.formats.ggml import GgmlBlocks
from halfpint.formats.levels import Levels
from halfpint.kernels.integer_linear import WIDE_COLUMNS, Activations, magnitudes, reference_round, rounded_values
from halfpint.tensors import Array, FloatArray, QuantizedTensor

PANEL_COLUMNS = 256
"""Columns of a weight that are rounded to 8 bits with one scale."""

_LARGEST_LEVELS = {"nf4": 128 / 127, "mxfp4": 6.4, "nvfp4": 6.4}


def wide_rounded(x: Activations) -> tuple[Array, FloatArray]:
    """Give the codes that many tokens are multiplied as, as `reference_round(x, WIDE_COLUMNS)` does it: the same bits.

    Returns
    -------
    codes : int8 [tokens, columns padded to super-blocks of 256]
    scales : float32 [tokens, padded columns / 32]
    """
    tokens, columns = x.shape
    padded = -(-columns // PANEL_COLUMNS) * PANEL_COLUMNS
    codes = np.empty((tokens, padded), np.int8)
    scales = np.empty((tokens, padded // WIDE_COLUMNS), np.float32)
    x.handle.copy_tiles(codes, scales)
    return codes, scales


def reference_forward_wide(weight: QuantizedTensor, x: FloatArray) -> FloatArray:
    """Multiply activations, rounded with one scale per 32 columns, with the decoded weight in float64; round once.

    Parameters
    ----------
    weight : QuantizedTensor [rows, columns]
    x : float32 [tokens, columns]

    Returns
    -------
    float32 [tokens, rows]
    """
    product = rounded_values(x, WIDE_COLUMNS) @ formats.decode(weight).astype(np.float64).T
    return product.astype(np.float32)


def wide_error_bound(weight: QuantizedTensor, x: FloatArray) -> FloatArray:
    """Largest distance of a product with many tokens from `reference_forward_wide`, float32 [tokens, rows].

    A weight is off by half a step, and by 1.5 / 256 of one for the three roundings of factors in 16 bits, and nf4's
    levels by 1 / 256 of one. Sums of 32 columns are exact; they pass a rounding for each of the 8 of a super-block and
    one for each super-block, and the scales four: (supers + 12) u times the sum of magnitudes, with u = 2**-24.

    Sums of 32 columns also lie on top of 1.5 * 2**23 while the eight are added up, which is taken off again (kSumBase
    in native/isa/panel.cpp): 16 roundings of numbers of up to 1.1 times that times the eight scales, 13.2 steps times
    the sum of these. What the steps of weights make is five times as much.
    """
    values = np.abs(rounded_values(x, WIDE_COLUMNS))
    steps = np.repeat(panel_steps(weight), PANEL_COLUMNS, axis=1)[:, : weight.shape[1]]
    supers = -(-weight.shape[1] // PANEL_COLUMNS)
    rounding = (supers + 12) * 2.0**-24
    bound = (0.5 + 3 / 256) * (values @ steps.T) + 1.01 * rounding * (values @ (magnitudes(weight) + steps).T)
    bound += 13.2 * (_super_scales(x) @ panel_steps(weight).T)
    limited: FloatArray = (bound * (1 + 2.0**-20)).astype(np.float32)
    return limited


def _super_scales(x: FloatArray) -> Array:
    """Sum of the scales of activations in each super-block of 256 columns, float64 [tokens, supers]."""
    _, scales = reference_round(x, WIDE_COLUMNS)
    wides = PANEL_COLUMNS // WIDE_COLUMNS
    supers = -(-scales.shape[1] // wides)
    padded = np.zeros((len(x), supers * wides))
    padded[:, : scales.shape[1]] = scales
    sums: Array = padded.reshape(len(x), supers, wides).sum(axis=2)
    return sums


def panel_steps(weight: QuantizedTensor) -> Array:
    """Size of a step of each row and super-block: 1/127 of the most that its scales can give, float64 [rows, supers].

    The most that can be given is the largest of what the codes at both ends decode to, and of half their distance.
    """
    columns = weight.shape[1]
    padded = np.zeros((weight.shape[0], -(-columns // PANEL_COLUMNS) * PANEL_COLUMNS))
    padded[:, :columns] = _limits(weight)
    steps: Array = padded.reshape(weight.shape[0], -1, PANEL_COLUMNS).max(axis=2) / 127
    return steps


def _limits(weight: QuantizedTensor) -> Array:
    """Give for each weight the most that its scale can give, float64 [rows, columns]."""
    fmt, parts = weight.format, weight.parts
    match fmt:
        case Levels():
            scales = parts["scales"].astype(np.float64)
            if fmt.name == "mxfp4":
                scales = 2.0 ** (scales - 127)
            outer = float(parts["global_scale"][0]) if fmt.name == "nvfp4" else 1.0
            limits: Array = np.abs(scales) * (_LARGEST_LEVELS[fmt.name] / outer)
            return np.repeat(limits, fmt.group_size, axis=1)[:, : weight.shape[1]]
        case Affine():
            scales = np.abs(parts["scales"].astype(np.float64))
            zero = 2 ** (fmt.bits - 1) if fmt.symmetric else parts["zero_points"].astype(np.float64)
            limits = np.maximum(np.maximum(zero, 2**fmt.bits - 1 - zero), 2 ** (fmt.bits - 1)) * scales
            return np.repeat(limits, fmt.group_size or weight.shape[1], axis=1)[:, : weight.shape[1]]
        case GgmlBlocks():
            blocks = parts["blocks"].reshape(-1, fmt.block_bytes)
            steps, offsets = ggml.group_scales(ggml.unpack(blocks, fmt))
            half = 128 if fmt.name.startswith("iq4") else 2 ** (fmt.bits - 1)
            limits = half * np.abs(steps.astype(np.float64))
            if offsets is not None:
                other_ends = offsets.astype(np.float64) + (2 * half - 1) * steps.astype(np.float64)
                limits = np.maximum(limits, np.maximum(np.abs(offsets), np.abs(other_ends)))
            return np.repeat(limits, fmt.block_columns // limits.shape[1], axis=1).reshape(weight.shape)
        case _:
            raise AssertionError(fmt)
