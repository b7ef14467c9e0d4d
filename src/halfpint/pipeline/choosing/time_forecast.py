"""How long a job will take, before it begins: operations counted, divided by what a laptop does in a second."""

from __future__ import annotations

from halfpint.checkpoints.checkpoint import Checkpoint
from halfpint.families import find, read_config
from halfpint.kernels.machine import WIDE_COLUMNS, thread_count
from halfpint.pipeline.job.calibrated_solving import is_needed
from halfpint.pipeline.looking.measurement import CALIBRATION_WINDOW, held_out_tokens
from halfpint.pipeline.options import MeasureOptions
from halfpint.plans import Plan, PlannedTensor
from halfpint.solvers import needs_moments

# Of one thread of a laptop in a second, measured on the shape of a Llama of 1.1 billion parameters
# (benchmarks/quantize_large.py): weights read, rounded, written and read back; additions and multiplications of the
# streams; and those of the solvers, which feed every column's error to all columns after it.
_WEIGHTS = 20e6
# Whatever the model: the interpreter, NumPy and a tokenizer.
_START_SECONDS = 0.6
# Scores of attention, a query with a key, by one thread: exponentials, which in small models are most of the work.
_SCORED = 100e6
_STREAMED = 80e9
_SOLVED = 3e9
# Passes of the text through a weight: in both streams, and again in the quantized one where the next weight's input
# depends on it; and sums of products of inputs with inputs, and with differences.
_PASSES = 2
_MOMENTS = 2
_MODELS = 2


def job_seconds(checkpoint: Checkpoint, plan: Plan, tokens: int) -> float:
    """Seconds that reading, calibrating, rounding and writing will take; the comparison at the end is left out.

    Parameters
    ----------
    checkpoint : Checkpoint
    plan : Plan
    tokens : int
        Of the calibration text; not looked at when the plan needs none.

    Returns
    -------
    float
        Never less than the program needs to start; right within a factor of two on an idle laptop.
    """
    weights = sum(spec.parameters for spec in checkpoint.tensors.values())
    seconds = _START_SECONDS + weights / _WEIGHTS / thread_count()
    if not is_needed(plan):
        return seconds
    attended = _PASSES * _attention_seconds(checkpoint, tokens, CALIBRATION_WINDOW)
    return seconds + attended + stream_seconds(plan, tokens) + sum(_solver_seconds(tensor) for tensor in plan.tensors)


def comparison_seconds(checkpoint: Checkpoint, plan: Plan, options: MeasureOptions) -> float:
    """Seconds that the comparison with the original at the end takes, as near to the truth; 0 where there is none."""
    if find(checkpoint.config) is None:
        return 0.0
    tokens = held_out_tokens(checkpoint, options)
    numbers = sum(tensor.shape[0] * tensor.shape[1] for tensor in plan.tensors if len(tensor.shape) == 2)
    passed = tokens * 2 * numbers / _STREAMED / thread_count()
    return _MODELS * (passed + _attention_seconds(checkpoint, tokens, options.window_tokens))


def _attention_seconds(checkpoint: Checkpoint, tokens: int, window: int) -> float:
    config = read_config(checkpoint.config)
    return config.layers * config.heads * tokens * min(window, config.max_positions) / _SCORED


def stream_seconds(plan: Plan, tokens: int) -> float:
    """Seconds in which so many tokens go through the matrices of a plan, in both streams, and are summed up."""
    matrices = [tensor.shape for tensor in plan.tensors if len(tensor.shape) == 2]
    passed = sum(2 * _PASSES * rows * columns for rows, columns in matrices)
    # Weights with one input share its moments; to count them by weight is right within a half.
    summed = sum(2 * _MOMENTS * tensor.shape[1] ** 2 for tensor in plan.tensors if needs_moments(tensor.solver))
    widest = max((columns for _, columns in matrices), default=0)
    threads = thread_count() if widest >= WIDE_COLUMNS else 1
    return tokens * (passed + summed) / _STREAMED / threads


def _solver_seconds(tensor: PlannedTensor) -> float:
    if not needs_moments(tensor.solver):
        return 0.0
    rows, columns = tensor.shape
    return 2.0 * rows * columns**2 / _SOLVED / thread_count()
