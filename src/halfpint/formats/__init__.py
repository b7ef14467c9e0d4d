"""The table of numeric formats, and the two verbs that every one of them has.

`FORMATS` maps names to records. A record says what is stored; `encode` and `decode` look up the two pure
functions that go with its type. These are the NumPy references: `halfpint.kernels` has the same verbs, faster,
with the same bytes.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from halfpint.errors import NonFiniteError, ShapeError, UnsupportedError
from halfpint.formats import affine, float8, ggml, levels, plain
from halfpint.formats.ggml.importance import check_importance
from halfpint.tensors import Array, FloatArray, Format, QuantizedTensor

__all__ = ["CODECS", "FORMATS", "Codec", "by_name", "check_finite", "decode", "encode"]


@dataclass(frozen=True, slots=True)
class Codec:
    """The two pure functions of one type of format record.

    `encode(weight [rows, columns] float32, format, importance)` returns the parts; `decode(quantized)` returns
    float32 [rows, columns].
    """

    encode: Callable[[FloatArray, Any, Array | None], Mapping[str, Array]]
    decode: Callable[[QuantizedTensor], FloatArray]


CODECS: Mapping[type, Codec] = MappingProxyType(
    {
        plain.Plain: Codec(plain.encode, plain.decode),
        affine.Affine: Codec(affine.encode, affine.decode),
        levels.Levels: Codec(levels.encode, levels.decode),
        float8.Float8: Codec(float8.encode, float8.decode),
        ggml.GgmlBlocks: Codec(ggml.encode, ggml.decode),
    }
)

FORMATS: Mapping[str, Format] = MappingProxyType(
    {fmt.name: fmt for family in (plain, ggml, affine, levels, float8) for fmt in family.FORMATS}
)


def by_name(name: str) -> Format:
    """Look a format up by the name that the command line and plan files use.

    Raises
    ------
    UnsupportedError
        If there is no such format; the message lists near names.
    """
    try:
        return FORMATS[name.lower()]
    except KeyError:
        stem = name.lower().split("-")[0][:3]
        near = difflib.get_close_matches(name.lower(), FORMATS, n=6, cutoff=0.5)
        near += [known for known in FORMATS if known.startswith(stem) and known not in near][:8]
        near = near or list(FORMATS)[:24]
        raise UnsupportedError(f"no format {name!r}; there are, among others: {', '.join(near)}") from None


def check_finite(weight: Array, first_row: int = 0) -> None:
    """Refuse NaN and infinity in a tensor, or in its rows from `first_row` on.

    Raises
    ------
    NonFiniteError
        Naming the first bad index; the caller adds the tensor's name.
    """
    finite = np.isfinite(weight)
    if not finite.all():
        index = tuple(int(i) for i in np.argwhere(~finite)[0])
        place = [index[0] + first_row, *index[1:]] if index else []
        raise NonFiniteError(f"value {weight[index]} at index {place}; mend or replace the checkpoint")


def encode(weight: FloatArray, fmt: Format, importance: Array | None = None) -> QuantizedTensor:
    """Put a weight into a format, with its scales chosen to keep the weighted squared error small.

    Parameters
    ----------
    weight : float32 [rows, columns]
        Finite values. Rows are output features.
    fmt : Format
        The target format.
    importance : float32 [columns] or [rows, columns], optional
        Non-negative weights of the squared error of each column, or of each element. None means all one.

    Returns
    -------
    QuantizedTensor
        `decode` of it is the approximation.

    Raises
    ------
    ShapeError
        If the format cannot hold this shape, or the importance has another.
    NonFiniteError
        If a weight is NaN or infinite, or an importance is, or is negative.
    """
    rows, columns = weight.shape
    refusal = fmt.refusal(rows, columns)
    if refusal is not None:
        raise ShapeError(refusal)
    check_finite(weight)
    checked = check_importance(importance, (rows, columns))
    parts = CODECS[type(fmt)].encode(weight, fmt, checked)
    return QuantizedTensor(fmt, (rows, columns), MappingProxyType(dict(parts)))


def decode(quantized: QuantizedTensor) -> FloatArray:
    """Give back the float32 [rows, columns] weight that a quantized tensor stands for."""
    return CODECS[type(quantized.format)].decode(quantized)
