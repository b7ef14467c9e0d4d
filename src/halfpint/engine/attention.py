"""Causal attention with grouped heads, sliding windows and soft caps."""

from __future__ import annotations

from functools import partial

import numpy as np

from halfpint.engine.activation import softcap, softmax
from halfpint.kernels.machine import one_blas_thread, side_by_side
from halfpint.tensors import FloatArray

_MOST_SCORES = 1 << 19
"""Scores that a thread holds at a time (2 MB): long prompts are cut into blocks of queries."""

_SUM = 64


def attend(
    queries: FloatArray, keys: FloatArray, values: FloatArray, *, scale: float, window: int, cap: float
) -> FloatArray:
    """Attention of the last tokens of each sequence to all up to themselves.

    Parameters
    ----------
    queries : float32 [sequences, tokens, heads, head_dim]
        Of the last `tokens` positions.
    keys, values : float32 [sequences, kv_heads, positions, head_dim]
        Of all positions from the first; heads / kv_heads queries share one.
    scale : float
        Multiplies the scores.
    window : int
        A token sees itself and `window - 1` before it; all before it when 0.
    cap : float
        Soft cap of the scores; none when 0.

    Returns
    -------
    float32 [sequences, tokens, heads * head_dim]
    """
    sequences, tokens, heads, head_dim = queries.shape
    kv_heads, positions = keys.shape[1], keys.shape[2]
    grouped = (queries * np.float32(scale)).reshape(sequences, tokens, kv_heads, heads // kv_heads, head_dim)
    grouped = grouped.transpose(0, 2, 3, 1, 4)  # [sequences, kv_heads, group, tokens, head_dim]
    out = np.empty((sequences, tokens, kv_heads, heads // kv_heads, head_dim), np.float32)
    block = max(1, _MOST_SCORES // (heads * positions))

    def work(sequence: int, start: int) -> None:
        end = min(tokens, start + block)
        first_query = positions - tokens + start
        seen = slice(max(0, first_query - window + 1) if window else 0, positions - tokens + end)
        width = _width(end - start, seen.stop - seen.start)
        part = _attend_block(
            grouped[sequence, :, :, start:end],
            _widened(keys[sequence, :, seen], width),
            _widened(values[sequence, :, seen], width),
            _mask(first_query - seen.start, end - start, width, window),
            cap,
        )
        out[sequence, start:end] = part.transpose(2, 0, 1, 3)

    pieces = [partial(work, sequence, start) for sequence in range(sequences) for start in range(0, tokens, block)]
    if sequences * tokens * heads * positions >= _MOST_SCORES:
        side_by_side(pieces)
    else:
        with one_blas_thread():
            for piece in pieces:
                piece()
    return out.reshape(sequences, tokens, heads * head_dim)


def _width(queries: int, keys: int) -> int:
    """Number of keys to look at.

    BLAS cuts sums of a length that is no multiple of its unroll elsewhere with several threads than with one; so there
    are more keys at the end, which no query sees. Products of one token are too small to be shared among threads.
    """
    return keys if queries == 1 else -(-keys // _SUM) * _SUM


def _widened(array: FloatArray, width: int) -> FloatArray:
    """Add zeros to [kv_heads, keys, head_dim] up to a number of keys."""
    if array.shape[1] == width:
        return array
    wide = np.zeros((array.shape[0], width, array.shape[2]), np.float32)
    wide[:, : array.shape[1]] = array
    return wide


def _mask(first_query: int, queries: int, keys: int, window: int) -> FloatArray | None:
    """0 where query q may see key k, -inf elsewhere: float32 [queries, keys]; None when it may see all.

    Query 0 stands at the place of key `first_query`.
    """
    if queries == 1:
        return None
    distance = np.arange(first_query, first_query + queries)[:, np.newaxis] - np.arange(keys)
    hidden = distance < 0
    if window:
        hidden |= distance >= window
    return np.where(hidden, np.float32(-np.inf), np.float32(0))


def _attend_block(
    queries: FloatArray, keys: FloatArray, values: FloatArray, mask: FloatArray | None, cap: float
) -> FloatArray:
    """One sequence: queries [kv_heads, group, tokens, head_dim] -> the same shape."""
    kv_heads, group, tokens, head_dim = queries.shape
    scores = queries.reshape(kv_heads, group * tokens, head_dim) @ keys.swapaxes(1, 2)
    scores = softcap(scores, cap)
    if mask is not None:
        scores = scores.reshape(kv_heads, group, tokens, -1) + mask
    shares = softmax(scores).reshape(kv_heads, group * tokens, -1)
    mixed: FloatArray = shares @ values
    return mixed.reshape(kv_heads, group, tokens, head_dim)
