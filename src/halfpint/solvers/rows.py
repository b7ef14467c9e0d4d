"""A weight whose rows see different inputs: each group of rows solved apart, and put together again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from halfpint.solvers.statistics import Moments, RowGroup, Solved, Statistics
from halfpint.tensors import FloatArray, Format, QuantizedTensor

MOST_ROWS = 8192
"""Rows of a group that are solved at once."""

MOST_AT_ONCE = 512
"""Rows that a thread solves at once."""

_LEAST_AT_ONCE = 64


def apart(fmt: Format, shape: tuple[int, int]) -> bool:
    """Whether rows of this format stand on their own: every part has a row for each row of the weight."""
    return all(part.shape[:1] == shape[:1] for part in fmt.parts(*shape).values())


def solve_groups(
    solve: Callable[[FloatArray, Statistics | None, Format], Solved],
    weight: FloatArray,
    groups: Sequence[RowGroup],
    fmt: Format,
) -> Solved:
    """Solve each group of rows for what it sees.

    Parameters
    ----------
    solve : function
    weight : float32 [rows, columns]
    groups : sequence of RowGroup
        Every row is in one of them.
    fmt : Format
        One whose rows stand on their own: see `apart`.

    Returns
    -------
    Solved
        Losses are means over rows.

    Notes
    -----
    Of a group with more than `MOST_ROWS` rows, so many are solved at a time, which bounds the memory it takes.
    """
    pieces = [piece for group in groups for piece in _pieces(group)]
    solved = [(piece.rows, solve(np.ascontiguousarray(weight[piece.rows]), piece.statistics, fmt)) for piece in pieces]
    quantized = assemble(fmt, (weight.shape[0], weight.shape[1]), [(rows, piece.quantized) for rows, piece in solved])
    losses = {
        step: sum(len(rows) * piece.losses[step] for rows, piece in solved) / len(weight)
        for step in solved[0][1].losses
        if all(step in piece.losses for _, piece in solved)
    }
    notes = sorted({piece.note for _, piece in solved if piece.note})
    return Solved(quantized, losses, "; ".join(notes))


def assemble(
    fmt: Format, shape: tuple[int, int], pieces: Sequence[tuple[NDArray[np.int64] | slice, QuantizedTensor]]
) -> QuantizedTensor:
    """Put rows of a weight together that were coded apart: each piece with where its rows belong."""
    if len(pieces) == 1:
        return pieces[0][1]
    parts = {name: np.empty(spec.shape, spec.dtype) for name, spec in fmt.parts(*shape).items()}
    for rows, piece in pieces:
        for name, values in piece.parts.items():
            parts[name][rows] = values
    return QuantizedTensor(fmt, shape, parts)


def slices(fmt: Format, shape: tuple[int, int]) -> list[slice]:
    """Cut a weight into runs of rows that can be solved side by side; the whole where rows do not stand on their own.

    The cuts depend on the shape alone. Eight are enough to keep as many processors busy; more than `MOST_AT_ONCE`
    rows would only take more memory, and for fewer than `_LEAST_AT_ONCE` it does not pay to read the second moments.
    """
    count, _ = shape
    if not apart(fmt, shape):
        return [slice(0, count)]
    rows = min(MOST_AT_ONCE, max(_LEAST_AT_ONCE, -(-count // 8)))
    return [slice(start, min(count, start + rows)) for start in range(0, count, rows)]


def _pieces(group: RowGroup) -> Iterator[RowGroup]:
    """Cut a group into runs of rows of nearly equal length."""
    count = -(-len(group.rows) // MOST_ROWS)
    bounds = [len(group.rows) * place // count for place in range(count + 1)]
    for start, end in pairwise(bounds):
        first, last = (_of_rows(half, start, end) for half in group.statistics.halves)
        yield RowGroup(group.rows[start:end], Statistics((first, last)))


def _of_rows(half: Moments, start: int, end: int) -> Moments:
    return replace(half, shift=None if half.shift is None else half.shift[start:end])
