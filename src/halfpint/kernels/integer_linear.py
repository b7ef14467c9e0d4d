"""Products of activations in 8 bits with weights in few: what generation runs on.

`IntegerLinear` copies a weight once into a layout that is read as one stream, at the speed of memory (the layout:
native/isa/integer.hpp), and multiplies its codes as integers with activations that were rounded to 8 bits, one scale
per 32 columns. `Linear` stays the exact product: calibration and measuring use it.

Sums over codes are exact, and every row adds its groups in the order of columns, so results are the same bits for any
number of threads, any company of tokens, and on every instruction set. `reference_forward` is the truth.

With more than `FEW_TOKENS` tokens another product is faster, which rounds more (see `integer_panels`): there too a
token gets the same bits in any company of more than so many, but not those that it gets among few.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np

from halfpint import formats
from halfpint.errors import ShapeError
from halfpint.formats import ggml
from halfpint.formats.ggml import GgmlBlocks
from halfpint.kernels import _native
from halfpint.kernels.elementwise import ACTIVATIONS
from halfpint.kernels.integer_packing import pack_integers, packs
from halfpint.kernels.linear import Linear
from halfpint.tensors import Array, FloatArray, QuantizedTensor

GROUP_COLUMNS = 32
"""Columns of activations that share a scale."""

FEW_TOKENS = 8
"""Up to so many tokens get the exact integer product; more of them another one."""

WIDE_COLUMNS = 32
"""Columns of activations that share a scale where there are many tokens."""

_LINE_FLOATS = 16

LEAST_MAGNITUDE = np.float32(2.0**-100)
"""A group of activations whose values are all smaller becomes zeros."""

KEPT: Mapping[str, str] = MappingProxyType(
    {
        "GGUF blocks": "rows interleaved by 16, in the bits of the file; integer products",
        "intN-gM, nf4, mxfp4, nvfp4": "rows interleaved by 16, N bits a code, scales beside them; integer products",
        "f32, f16, bf16, fp8, fp8-block": "as in the file; products with activations as they are",
    }
)
"""How each kind of weight is kept for generation."""


def explain() -> str:
    """Say which kernels generation runs on, and how each kind of weight is kept; for `halfpint doctor`."""
    lines = [f"integer products: {_native.integer_isa()} ({_native.thread_count()} threads)"]
    lines += [f"  {kind}: {how}" for kind, how in KEPT.items()]
    return "\n".join(lines)


class Activations:
    """Activations [tokens, columns] that several weights are multiplied with; rounded to 8 bits once, when first used.

    Parameters
    ----------
    x : float32 [tokens, columns]
        Kept, and not copied if it is contiguous: it must not change afterwards.

    Raises
    ------
    ShapeError
        If `x` is no matrix.
    """

    __slots__ = ("handle", "values")

    def __init__(self, x: FloatArray) -> None:
        if x.ndim != 2:
            raise ShapeError(f"activations of shape {list(x.shape)} are no matrix [tokens, columns]")
        self.values: FloatArray = np.ascontiguousarray(x, np.float32)
        self.handle = _native.IntegerActivations(self.values)

    @property
    def shape(self) -> tuple[int, int]:
        """[tokens, columns]."""
        return self.handle.tokens, self.handle.columns

    def rounded(self) -> tuple[Array, FloatArray]:
        """Give codes, int8 [tokens, columns padded to groups], and scales, float32 [tokens, groups].

        As `reference_round` does it: the same bits.
        """
        tokens, columns = self.shape
        groups = -(-columns // GROUP_COLUMNS)
        codes = np.empty((tokens, groups * GROUP_COLUMNS), np.int8)
        scales = np.empty((tokens, groups), np.float32)
        self.handle.copy_rounded(codes, scales)
        return codes, scales


class IntegerLinear:
    """A weight [rows, columns] that vectors are multiplied with in integers; rows are output features.

    Parameters
    ----------
    weight : Array [rows, columns] of float32, float16 or bfloat16, or QuantizedTensor
        Read once and copied, with all threads; nothing of it is kept. Only formats whose codes are no integers, and
        plain floats, are kept in their own bytes and multiplied as `Linear` does (see `KEPT`).

    Raises
    ------
    ShapeError
        If the weight is no matrix or its parts have other shapes than its format says.
    UnsupportedError
        If the dtype is not a plain float.
    CheckpointError
        If a scale that has to be a number is none.
    """

    __slots__ = ("_exact", "_kind", "_packed", "_shape")

    def __init__(self, weight: Array | QuantizedTensor) -> None:
        self._packed: _native.PackedIntegers | None = None
        self._exact: Linear | None = None
        if isinstance(weight, QuantizedTensor) and packs(weight):
            self._packed, self._kind = pack_integers(weight)
            self._shape = weight.shape
        else:
            self._exact = Linear(weight)
            self._kind = self._exact.kind
            self._shape = self._exact.shape

    @property
    def shape(self) -> tuple[int, int]:
        """[rows, columns]."""
        return self._shape

    @property
    def kind(self) -> str:
        """How the weight is kept: a GGUF format's name, `intN`, a format of levels, or what `Linear` says."""
        return self._kind

    @property
    def is_integer(self) -> bool:
        """Whether products round activations to 8 bits."""
        return self._packed is not None

    @property
    def handle(self) -> _native.PackedIntegers | None:
        """The packed weight; None where products take activations as they are."""
        return self._packed

    @property
    def nbytes(self) -> int:
        """Bytes of memory held."""
        return self._packed.nbytes if self._packed is not None else self._held.nbytes

    def forward(self, x: FloatArray | Activations, *, exact: bool = False) -> FloatArray:
        """Multiply: `x @ weight.T`.

        Parameters
        ----------
        x : float32 [tokens, columns], or Activations
            Give Activations where several weights are multiplied with the same.
        exact : bool, default False
            Multiply many tokens as few ones are: slower, and less noise.

        Returns
        -------
        float32 [tokens, rows]
            Within `error_bound` of `reference_forward`; with more than `FEW_TOKENS` tokens, and not `exact`, within
            `integer_panels.wide_error_bound` of `integer_panels.reference_forward_wide`. A token with NaN or infinity
            in it gives NaN.

        Raises
        ------
        ShapeError
            If `x` has other columns than the weight.
        """
        return multiply((self,), x if isinstance(x, Activations) else Activations(x), exact=exact)[0]

    def rows(self, ids: Array) -> FloatArray:
        """Decode single rows: the look-up of an embedding.

        Parameters
        ----------
        ids : integers [n]
            From 0 to rows - 1.

        Returns
        -------
        float32 [n, columns]
            The bits of `halfpint.formats.decode`.

        Raises
        ------
        ShapeError
            If an id is not a row.
        """
        if self._packed is None:
            return self._held.rows(ids)
        wanted = np.ascontiguousarray(ids, np.int64).reshape(-1)
        if wanted.size and (wanted.min() < 0 or wanted.max() >= self._shape[0]):
            raise ShapeError(f"ids from {wanted.min()} to {wanted.max()} for a table of {self._shape[0]} rows")
        out = np.empty((wanted.size, self._shape[1]), np.float32)
        self._packed.gather(wanted, out)
        return out

    def decode(self) -> FloatArray:
        """Decode the whole weight: float32 [rows, columns], the bits of `halfpint.formats.decode`."""
        if self._packed is None:
            return self._held.decode()
        out = np.empty(self._shape, np.float32)
        self._packed.decode(out)
        return out

    @property
    def _held(self) -> Linear:
        assert self._exact is not None
        return self._exact


def multiply(weights: Sequence[IntegerLinear], x: Activations, *, exact: bool = False) -> list[FloatArray]:
    """Multiply the same activations with several weights: what `IntegerLinear.forward` gives for each.

    All weights are one piece of work, shared among threads as if they were one weight.

    Raises
    ------
    ShapeError
        If `x` has other columns than a weight.
    """
    tokens, columns = x.handle.tokens, x.handle.columns
    outs, packed, packed_outs = [], [], []
    for weight in weights:
        rows, expected = weight._shape
        if columns != expected:
            raise ShapeError(f"activations of shape {[tokens, columns]} for a weight of shape {[rows, expected]}")
        if weight._packed is None:
            out = weight._held.forward(x.values)
        else:
            out = _on_lines(tokens, rows)
            packed.append(weight._packed)
            packed_outs.append(out)
        outs.append(out)
    if packed:
        product = _native.multiply_integers if exact or tokens <= FEW_TOKENS else _native.multiply_many
        product(packed, x.handle, packed_outs)
    return outs


def multiply_gated(gate: IntegerLinear, up: IntegerLinear, x: Activations, activation: str) -> FloatArray | None:
    """Multiply many tokens with a gate and its partner, and gate: the bits of `multiply` and `elementwise.gated`.

    Parameters
    ----------
    gate, up : IntegerLinear [rows, columns]
    x : Activations [tokens, columns]
    activation : str
        As for `elementwise.gated`.

    Returns
    -------
    float32 [tokens, rows] or None
        activation(x @ gate.T) * (x @ up.T); None where that is not done in one: for `FEW_TOKENS` tokens or fewer, and
        for weights that are not held in integers.

    Raises
    ------
    ShapeError
        If the three do not fit.
    """
    tokens, columns = x.shape
    if tokens <= FEW_TOKENS or gate._packed is None or up._packed is None:
        return None
    if gate.shape != up.shape or gate.shape[1] != columns:
        raise ShapeError(f"{[tokens, columns]} for a gate of shape {list(gate.shape)} and {list(up.shape)} beside it")
    out = _on_lines(tokens, gate.shape[0])
    _native.multiply_gated(gate._packed, up._packed, ACTIVATIONS[activation], x.handle, out)
    return out


def _on_lines(tokens: int, rows: int) -> FloatArray:
    """Make room for float32 [tokens, rows]; for many tokens it begins on a line of caches, to be written past them."""
    if tokens <= FEW_TOKENS:
        return np.empty((tokens, rows), np.float32)
    room = np.empty(tokens * rows + _LINE_FLOATS, np.float32)
    begin = -(room.__array_interface__["data"][0] // room.itemsize) % _LINE_FLOATS
    return room[begin : begin + tokens * rows].reshape(tokens, rows)


def reference_round(x: FloatArray, group_columns: int = GROUP_COLUMNS) -> tuple[Array, FloatArray]:
    """Round activations to 8 bits, a scale for each group: code = round(x * (127 / largest)), scale = largest / 127.

    Parameters
    ----------
    x : float32 [tokens, columns]
    group_columns : int
        Columns that share a scale.

    Returns
    -------
    codes : int8 [tokens, columns padded with zeros to whole groups]
    scales : float32 [tokens, groups]
        NaN where a group has NaN or infinity in it, whose codes are zeros.
    """
    tokens, columns = x.shape
    groups = -(-columns // group_columns)
    padded = np.zeros((tokens, groups * group_columns), np.float32)
    padded[:, :columns] = x
    grouped = padded.reshape(tokens, groups, group_columns)
    largest = np.abs(grouped).max(axis=2, initial=0)  # NaN when there is one
    useful = np.isfinite(largest) & (largest >= LEAST_MAGNITUDE)
    safe = np.where(useful, largest, np.float32(1))
    inverse = np.where(useful, np.float32(127) / safe, np.float32(0))
    scales = np.where(useful, safe / np.float32(127), np.where(np.isfinite(largest), 0, np.nan)).astype(np.float32)
    codes = np.rint(np.where(useful[..., np.newaxis], grouped, 0) * inverse[..., np.newaxis]).astype(np.int8)
    return codes.reshape(tokens, -1), scales


def reference_forward(weight: QuantizedTensor, x: FloatArray) -> FloatArray:
    """Multiply rounded activations with the decoded weight in float64, and round once.

    Parameters
    ----------
    weight : QuantizedTensor [rows, columns]
    x : float32 [tokens, columns]

    Returns
    -------
    float32 [tokens, rows]
    """
    product = rounded_values(x) @ formats.decode(weight).astype(np.float64).T
    return product.astype(np.float32)


def error_bound(weight: QuantizedTensor, x: FloatArray) -> FloatArray:
    """Largest distance of `IntegerLinear.forward` from `reference_forward`, float32 [tokens, rows].

    Sums within a group are exact. With u = 2**-24, a term passes at most 6 roundings of scales and products and one for
    every later group (two where there are minima), so n groups err by (2 n + 8) u times the sum of magnitudes (Higham,
    Accuracy and Stability of Numerical Algorithms, 3.1). Minima are terms of their own, and nf4's
    levels are rounded to multiples of 1 / 16256: half of that, times the group's scale, for every column.
    """
    groups = -(-weight.shape[1] // GROUP_COLUMNS)
    unit = 2.0**-24
    values = np.abs(rounded_values(x))
    parts = values @ magnitudes(weight).T
    bound = (2 * groups + 8) * unit / (1 - (2 * groups + 8) * unit) * parts
    if weight.format.name == "nf4":
        scales = np.repeat(np.abs(weight.parts["scales"]), 64, axis=1)[:, : weight.shape[1]].astype(np.float64)
        bound = bound + (0.5 / 16256) * (values @ scales.T)
    limited: FloatArray = (bound * (1 + 2.0**-20)).astype(np.float32)
    return limited


def rounded_values(x: FloatArray, group_columns: int = GROUP_COLUMNS) -> Array:
    """Give what rounded activations are worth, float64 [tokens, columns]; arguments as of `reference_round`."""
    codes, scales = reference_round(x, group_columns)
    values: Array = codes * np.repeat(scales.astype(np.float64), group_columns, axis=1)
    return values[:, : x.shape[1]]


def magnitudes(weight: QuantizedTensor) -> Array:
    """Give the sum of magnitudes of what a weight is added up from: with minima that is more than its own."""
    magnitude = np.abs(formats.decode(weight).astype(np.float64))
    if isinstance(weight.format, GgmlBlocks):
        blocks = weight.parts["blocks"].reshape(-1, weight.format.block_bytes)
        _, offsets = ggml.group_scales(ggml.unpack(blocks, weight.format))
        if offsets is not None:
            spread = np.repeat(np.abs(offsets), weight.format.block_columns // offsets.shape[1], axis=1)
            magnitude += 2 * spread.reshape(weight.shape)
    return magnitude
