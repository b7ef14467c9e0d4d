"""How much memory a job will take at most, and how to make it take less."""

from __future__ import annotations

from collections.abc import Iterator

from halfpint.calibration.forecast import activation_bytes, working_bytes
from halfpint.checkpoints.checkpoint import Checkpoint
from halfpint.errors import RoomError
from halfpint.families import ModelConfig, Role, read_config
from halfpint.kernels.machine import thread_count
from halfpint.pipeline.job.calibrated_solving import is_needed
from halfpint.pipeline.results import MemoryLimits
from halfpint.planning.planner import roles_of
from halfpint.plans import Plan, PlannedTensor
from halfpint.solvers import SOLVERS, needs_moments
from halfpint.solvers.rows import MOST_AT_ONCE
from halfpint.tensors import SLICE_WEIGHTS, row_slices

# The interpreter, NumPy and the tables of formats (45 MB were measured), headers, and gaps that the allocator leaves;
# and for each word of a tokenizer (27 MB of 32,000 were measured).
_RESTING_BYTES, _WORD_BYTES = 60_000_000, 850
_USUAL_WORDS = 32_000
# Of a slice, for each weight: bytes of the source, float32 of it and of what is decoded, their difference, the codes,
# and what an encoder holds on the way. 19 were measured.
_BYTES_PER_WEIGHT = 20
# A copy is read and written; the sums over it need no more memory.
_COPIES = 2
# A solver has four arrays of K by K columns at a time: moments, a factor, the correction that all weights of an input
# share, and one that is in the making; three arrays of the weight's size, and eight of the rows that each thread works
# on.
_SQUARES, _WEIGHTS, _IN_HAND, _ITEM = 4, 3, 8, 4
_FEWEST_SLICE_WEIGHTS = 1


def limits_within(source: Checkpoint, plan: Plan, tokens: int, most_bytes: int) -> MemoryLimits:
    """Divide memory so that a job stays below a limit.

    Parameters
    ----------
    source : Checkpoint
    plan : Plan
    tokens : int
        Of the calibration text.
    most_bytes : int
        0 for no limit.

    Returns
    -------
    MemoryLimits
        The usual ones where they fit, else smaller ones: the result is the same, more slowly.

    Raises
    ------
    RoomError
        If the job needs more however it is divided; the message says how much.
    """
    limits = MemoryLimits()
    if not most_bytes or peak_bytes(source, plan, tokens, limits) <= most_bytes:
        return limits
    least = peak_bytes(source, plan, tokens, MemoryLimits(_FEWEST_SLICE_WEIGHTS, 0))
    if least > most_bytes:
        raise RoomError(
            f"--max-ram {most_bytes:,}: the job needs about {least:,} bytes of memory, however it is divided; "
            "without --calibrate it needs less"
            if is_needed(plan)
            else f"--max-ram {most_bytes:,}: the job needs about {least:,} bytes of memory, however it is divided"
        )
    slice_weights = SLICE_WEIGHTS
    while slice_weights > 1 and peak_bytes(source, plan, tokens, MemoryLimits(slice_weights, 0)) > most_bytes:
        slice_weights //= 2
    spare = most_bytes - peak_bytes(source, plan, tokens, MemoryLimits(slice_weights, 0))
    return MemoryLimits(slice_weights, min(MemoryLimits().activation_bytes, spare))


def peak_bytes(source: Checkpoint, plan: Plan, tokens: int, limits: MemoryLimits) -> int:
    """Most memory that a job will take, the comparison at the end left out: an upper bound, not far from the truth."""
    slices = max((_slice_bytes(source, tensor, limits) for tensor in plan.tensors), default=0)
    if not is_needed(plan):
        return _resting_bytes(source) + slices
    config = read_config(source.config)
    waiting = min(activation_bytes(config, tokens), limits.activation_bytes) + _mixture_bytes(config, tokens)
    roles = roles_of(source)
    ends = (Role.HEAD, Role.EMBEDDING)
    head = any(roles.get(tensor.name) in ends and needs_moments(tensor.solver) for tensor in plan.tensors)
    streams = max(slices, working_bytes(config, _solver_bytes, head=head))
    return _resting_bytes(source) + streams + _ends_bytes(source, plan) + waiting


def _resting_bytes(source: Checkpoint) -> int:
    """What the program holds before it begins; of the usual tokenizer where no number of words is told."""
    words = source.config.get("vocab_size")
    return _RESTING_BYTES + _WORD_BYTES * (words if isinstance(words, int) and words > 0 else _USUAL_WORDS)


def _slice_bytes(source: Checkpoint, tensor: PlannedTensor, limits: MemoryLimits) -> int:
    spec = source.tensors[tensor.name]
    if tensor.solver != "copy" and not SOLVERS[tensor.solver].row_wise:
        return 0  # its solver's own
    rows = max(1, tensor.shape[0]) if tensor.shape else 1
    most = max(end - start for start, end in _slices(tensor, source, limits))
    if tensor.solver == "copy":
        return _COPIES * spec.nbytes * most // rows
    return _BYTES_PER_WEIGHT * spec.parameters * most // rows


def _slices(tensor: PlannedTensor, source: Checkpoint, limits: MemoryLimits) -> Iterator[tuple[int, int]]:
    formats = (tensor.format, source.tensors[tensor.name].format)
    return row_slices(tensor.shape, *formats, slice_weights=limits.slice_weights)


def _solver_bytes(rows: int, columns: int) -> int:
    in_hand = _IN_HAND * min(rows, thread_count() * MOST_AT_ONCE)
    return _ITEM * columns * (_SQUARES * columns + _WEIGHTS * rows + in_hand)


def _mixture_bytes(config: ModelConfig, tokens: int) -> int:
    """What waits in memory in a mixture of experts, whatever the limit: `activation_bytes` tells of it."""
    return 4 * tokens * 2 * 2 * config.hidden_size if config.experts else 0


def _ends_bytes(source: Checkpoint, plan: Plan) -> int:
    """Embedding and head, which both streams hold in their own formats all the time."""
    roles = roles_of(source)
    ends = [tensor for tensor in plan.tensors if roles.get(tensor.name) in (Role.EMBEDDING, Role.HEAD)]
    return sum(source.tensors[tensor.name].nbytes + tensor.nbytes for tensor in ends)
