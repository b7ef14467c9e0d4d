"""How much memory calibration needs, before it begins."""

from __future__ import annotations

from collections.abc import Callable

from halfpint.calibration.head_statistics import MOST_GROUPS, MOST_SUM_BYTES
from halfpint.calibration.text import BATCH_TOKENS
from halfpint.families import FAMILIES, ModelConfig, Role
from halfpint.solvers.rows import MOST_ROWS

SolverBytes = Callable[[int, int], int]
"""(rows, columns) of a weight -> bytes."""

# Weights with one input; those of `_RESIDUAL` add their outputs to the residual stream.
_SHARED = (
    (Role.ATTENTION_Q, Role.ATTENTION_K, Role.ATTENTION_V),
    (Role.ATTENTION_QKV,),
    (Role.MLP_GATE, Role.MLP_UP),
    (Role.MLP_GATE_UP,),
    (Role.EXPERT_GATE, Role.EXPERT_UP),
    (Role.EXPERT_DOWN,),
)
_RESIDUAL = ((Role.ATTENTION_OUTPUT,), (Role.MLP_DOWN,))

_FLOAT_BYTES = 4
_STREAMS = 2
_HALVES = 2


def activation_bytes(config: ModelConfig, tokens: int) -> int:
    """Bytes of activations that wait at once, in memory or on disk, while `tokens` go through a block in both streams.

    These are the hidden states, and the widest inputs of weights; where the output of the original is known before the
    quantized weight is, it waits in place of its input. In a mixture of experts, its input and the sum of outputs wait
    in memory besides, whatever `StreamOptions.max_activation_bytes` says.

    Parameters
    ----------
    config : ModelConfig
    tokens : int
        Of all windows.

    Returns
    -------
    int
        A bound: reached where every input of the block is wanted, or, for some, where none is.
    """
    hidden, inner = config.hidden_size, max(config.intermediate_size if not config.experts else 0, config.expert_size)
    query = config.heads * config.head_dim
    widest = _STREAMS * max(hidden, query, inner)
    mixture = _STREAMS * 2 * hidden if config.experts else 0
    return _FLOAT_BYTES * tokens * (_STREAMS * hidden + widest + mixture)


def working_bytes(config: ModelConfig, solver_bytes: SolverBytes, *, head: bool = True) -> int:
    """Bytes that calibration needs in memory beside activations: weights as float32, sums, and what works on them.

    That is one batch on its way while sums are made, and after it the solver; the largest of the model's inputs counts.

    Parameters
    ----------
    config : ModelConfig
    solver_bytes : function of (rows, columns)
        What the solver takes beside a weight and its sums.
    head : bool
        Whether the head is wanted, be it the embedding or not; otherwise nobody looks at its input.
    """
    shapes = {tensor.role: tensor.shape for tensor in FAMILIES[config.family].tensors(config) if len(tensor.shape) == 2}
    ends = (Role.EMBEDDING if config.tied_embeddings else Role.HEAD,)
    widest = max(rows for rows, _ in shapes.values() if rows != config.vocab_size)
    batch = _FLOAT_BYTES * BATCH_TOKENS * (6 * max(widest, config.hidden_size) + 8 * config.hidden_size)
    most = batch
    for group in (*_SHARED, *_RESIDUAL, *((ends,) if head else ())):
        present = [shapes[role] for role in group if role in shapes]
        if not present:
            continue
        columns = present[0][1]
        numbers = [rows * columns for rows, _ in present]
        copies = 1 if group == ends else 2  # as it was, and as it goes on
        # In both halves: second moments, and what shifts are made of; or the shifts, which to the residual stream are
        # summed as they stand.
        sums = _HALVES * (columns**2 + (max(numbers) if group in _RESIDUAL else columns**2))
        if group == ends:
            sums += _HALVES * max(numbers)  # shifts of all groups of rows
            sums += min(MOST_SUM_BYTES // _FLOAT_BYTES, MOST_GROUPS * _HALVES * 2 * columns**2)
        at_once = [min(rows, MOST_ROWS) if group == ends else rows for rows, _ in present]
        solver = max(solver_bytes(rows, columns) for rows in at_once)
        most = max(most, _FLOAT_BYTES * (copies * sum(numbers) + sums) + max(batch, solver))
    return most
