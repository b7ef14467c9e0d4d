"""A weight whose rows see different inputs: each group of rows solved apart, and put together again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import numpy as np

from halfpint.solvers.statistics import Moments, RowGroup, Solved, Statistics
from halfpint.tensors import FloatArray, Format, QuantizedTensor

MOST_ROWS = 8192
"""Rows that are solved at once."""


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
    parts = {
        name: np.empty(spec.shape, spec.dtype) for name, spec in fmt.parts(weight.shape[0], weight.shape[1]).items()
    }
    for rows, piece in solved:
        for name, values in piece.quantized.parts.items():
            parts[name][rows] = values
    losses = {
        step: sum(len(rows) * piece.losses[step] for rows, piece in solved) / len(weight)
        for step in solved[0][1].losses
        if all(step in piece.losses for _, piece in solved)
    }
    notes = sorted({piece.note for _, piece in solved if piece.note})
    return Solved(QuantizedTensor(fmt, (weight.shape[0], weight.shape[1]), parts), losses, "; ".join(notes))


def _pieces(group: RowGroup) -> Iterator[RowGroup]:
    """Cut a group into runs of rows of nearly equal length."""
    count = -(-len(group.rows) // MOST_ROWS)
    bounds = [len(group.rows) * place // count for place in range(count + 1)]
    for start, end in pairwise(bounds):
        first, last = (_of_rows(half, start, end) for half in group.statistics.halves)
        yield RowGroup(group.rows[start:end], Statistics((first, last)))


def _of_rows(half: Moments, start: int, end: int) -> Moments:
    return Moments(half.second, None if half.shift is None else half.shift[start:end], half.tokens)
