"""How much memory calibration needs, before it begins."""

from __future__ import annotations

from halfpint.calibration.text import BATCH_TOKENS
from halfpint.families import FAMILIES, ModelConfig, Role

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


def working_bytes(config: ModelConfig, *, head: bool = True) -> int:
    """Bytes that calibration needs in memory beside activations: weights as float32, sums, and one batch on its way.

    The solver's own working memory is not in it.

    Parameters
    ----------
    config : ModelConfig
    head : bool
        Whether a head that is not the embedding is wanted; otherwise nobody looks at its input.
    """
    shapes = {tensor.role: tensor.shape for tensor in FAMILIES[config.family].tensors(config) if len(tensor.shape) == 2}
    groups = (
        (Role.ATTENTION_Q, Role.ATTENTION_K, Role.ATTENTION_V),
        (Role.ATTENTION_QKV,),
        (Role.ATTENTION_OUTPUT,),
        (Role.MLP_GATE, Role.MLP_UP),
        (Role.MLP_GATE_UP,),
        (Role.MLP_DOWN,),
        (Role.EXPERT_GATE, Role.EXPERT_UP),
        (Role.EXPERT_DOWN,),
        (Role.HEAD,),
    )
    weights, sums = 0, 0
    for group in groups:
        present = [shapes[role] for role in group if role in shapes and (head or role is not Role.HEAD)]
        if not present:
            continue
        columns = present[0][1]
        numbers = [rows * columns for rows, _ in present]
        copies = 1 if group == (Role.HEAD,) else 2  # as it was, and as it goes on
        weights = max(weights, copies * sum(numbers))
        # Second moments and differences in both halves, and the shifts of one weight.
        sums = max(sums, _HALVES * (2 * columns**2 + max(numbers)))
    widest = max(rows for rows, _ in shapes.values() if rows != config.vocab_size)
    batch = BATCH_TOKENS * (6 * max(widest, config.hidden_size) + 8 * config.hidden_size)
    return _FLOAT_BYTES * (weights + sums + batch)
