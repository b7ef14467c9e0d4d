"""Cutting a tensor's rows into slices that fit in memory."""

from __future__ import annotations

from collections.abc import Iterator

from halfpint.tensors import Format

# Weights of a slice: 8 million are 32 MB of float32, few enough for any laptop and enough to keep threads busy.
SLICE_WEIGHTS = 8_000_000
# Slices start at multiples of this, so that 128x128 blocks and zero points packed along rows are never cut.
ROW_STEP = 256


def row_slices(
    shape: tuple[int, ...], *formats: Format | None, slice_weights: int = SLICE_WEIGHTS
) -> Iterator[tuple[int, int]]:
    """Row ranges [start, end) that cover a tensor in order.

    Parameters
    ----------
    shape : tuple of int
    formats : Format or None
        Of source and target: when one of them codes the tensor as a whole, there is one slice.
    slice_weights : int
        About so many weights in a slice, and never fewer than `ROW_STEP` rows.
    """
    if not shape:
        yield 0, 1
        return
    rows = shape[0]
    row_weights = 1
    for length in shape[1:]:
        row_weights *= length
    step = max(ROW_STEP, slice_weights // max(row_weights, 1) // ROW_STEP * ROW_STEP)
    if len(shape) == 1 or any(fmt is not None and fmt.row_multiple == 0 for fmt in formats):
        step = max(rows, 1)
    for start in range(0, rows, step):
        yield start, min(start + step, rows)
