"""Measuring how sensitive a model is: round a little of it, and see how far its answers move.

The original reads some of the calibration text once; what goes into every block is kept. Then tensors are rounded to a
low format, one group at a time, and the text goes on from the first block that has changed. Where that would take too
long, all layers' tensors of one role are rounded together, and what is measured is shared among them by their errors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from halfpint import kernels, solvers
from halfpint.calibration.stream import stream_moments
from halfpint.calibration.text import Batch, Window, batches
from halfpint.checkpoints import read_float32
from halfpint.checkpoints.checkpoint import Checkpoint
from halfpint.engine.block import load_block
from halfpint.engine.decoder import Ends, load_ends
from halfpint.engine.weights import Weight, as_read
from halfpint.families import LINEAR_ROLES, ModelConfig
from halfpint.families.record import Role
from halfpint.measuring.comparison import known_config
from halfpint.pipeline.looking.measurement import calibration_windows
from halfpint.pipeline.options import CalibrationOptions, Progress, silent
from halfpint.planning.candidates import Candidate
from halfpint.planning.planner import roles_of
from halfpint.planning.sensitivity import Sensitivity, TensorErrors, Unit, low_format
from halfpint.solvers.statistics import Statistics
from halfpint.tensors import FloatArray, Format, QuantizedTensor, TensorSpec

OPERATIONS = 4e12
"""Multiplications and additions that watching the answers may take: a minute or two on a laptop."""

_MOST_TOKENS = 1024
_FEWEST_TOKENS = 512
# Rows of a weight that its errors are measured on, and those that the solver is tried on.
_ERROR_ROWS = 256
_SOLVED_ROWS = 32
_RUNS = 16
# Error feedback gains half as much on a head, and on an embedding that is the head as well: the demo model's, rounded
# to q3_k, moves the answers by 0.0194 nats with nearest codes and by 0.0113 with feedback; linear layers gain 0.29.
_HEAD_GAIN = 2.0
# On fewer tokens than columns the solver fits the text by heart: what it seems to leave there is no measure.
_LEAST_GAIN = 0.3
_CACHED_LOGITS = 64_000_000
_LOGITS_AT_A_TIME = 4_000_000


@dataclass(frozen=True, slots=True)
class SensitivitySchedule:
    """How a model will be measured.

    Attributes
    ----------
    units : tuple of tuple of str
        Tensors that are rounded together.
    tokens : int
    operations : float
        That it will take.
    """

    units: tuple[tuple[str, ...], ...]
    tokens: int
    operations: float


def sensitivity_schedule(
    checkpoint: Checkpoint, groups: Sequence[Candidate], most_operations: float = OPERATIONS
) -> SensitivitySchedule:
    """Choose what is rounded together, and how much text is read.

    Group by group on 1024 tokens where that takes no more operations; else role by role, on fewer tokens if need be
    but never on less than 512.
    """
    config = known_config(checkpoint)
    roles = roles_of(checkpoint)
    single = tuple(group.names for group in groups)
    by_role: dict[tuple[str, ...], list[str]] = {}
    for names in single:
        kinds = tuple(sorted({str(roles.get(name, "")) for name in names}))
        by_role.setdefault(kinds, []).extend(names)
    together = tuple(tuple(names) for names in by_role.values())
    parameters = sum(spec.parameters for spec in checkpoint.tensors.values())
    for units, tokens in ((single, _MOST_TOKENS), (together, _MOST_TOKENS)):
        share = sum(1 - _first_layer(unit) / config.layers for unit in units) if units is single else len(units)
        operations = 2 * parameters * tokens * share
        if operations <= most_operations:
            return SensitivitySchedule(units, tokens, operations)
    per_token = 2 * parameters * len(together)
    tokens = max(_FEWEST_TOKENS, int(most_operations / per_token))
    return SensitivitySchedule(together, tokens, float(per_token) * tokens)


def sense(
    checkpoint: Checkpoint,
    groups: Sequence[Candidate],
    options: CalibrationOptions,
    calibrated: bool = True,
    progress: Progress = silent,
    most_operations: float = OPERATIONS,
) -> Sensitivity:
    """Measure what rounding does to a model's answers.

    Parameters
    ----------
    checkpoint : Checkpoint
        Of a known family, with a tokenizer.
    groups : sequence of Candidate
        What a budget may decide on.
    options : CalibrationOptions
        The text that is read; never the one that models are compared on.
    calibrated : bool
        Whether linear layers will be solved with error feedback.
    progress : Progress
    most_operations : float
        See `sensitivity_schedule`.

    Returns
    -------
    Sensitivity

    Raises
    ------
    UnsupportedError
        If the family or the tokenizer is not known.
    """
    schedule = sensitivity_schedule(checkpoint, groups, most_operations)
    windows = calibration_windows(checkpoint, options, min(schedule.tokens, options.tokens or schedule.tokens))
    menu = {name: tuple(fmt for fmt, _ in group.options if fmt is not None) for group in groups for name in group.names}
    tensors, importance = _tensor_errors(checkpoint, windows, menu, calibrated, progress)
    watched = _Watched.of(checkpoint, windows, {name: tensors[name].low for name in tensors}, importance)
    floor = watched.kl(())
    units = []
    for number, names in enumerate(schedule.units):
        progress("sense", number, len(schedule.units), names[0])
        units.append(Unit(names, watched.kl(names)))
    progress("sense", len(schedule.units), len(schedule.units), "")
    return Sensitivity(tuple(units), tensors, floor, sum(len(window.token_ids) for window in windows))


def _tensor_errors(
    checkpoint: Checkpoint,
    windows: Sequence[Window],
    menu: Mapping[str, tuple[Format, ...]],
    calibrated: bool,
    progress: Progress,
) -> tuple[dict[str, TensorErrors], dict[str, FloatArray]]:
    """Errors of every tensor in every format of its menu, and what counts in its columns."""
    roles = roles_of(checkpoint)
    linear = frozenset(name for name in menu if roles.get(name) in LINEAR_ROLES)
    errors: dict[str, dict[str, float]] = {}
    importance: dict[str, FloatArray] = {}
    gain = 1.0
    for block in stream_moments(checkpoint, windows, linear):
        for name, statistics in block.items():
            progress("weigh", len(errors), len(menu), name)
            second = statistics.second()
            importance[name] = np.diagonal(second).copy()
            errors[name] = _errors(checkpoint, name, _with_low(checkpoint.tensors[name], menu[name]), second)
            if calibrated and gain == 1.0:
                gain = _solver_gain(checkpoint, name, statistics)
    for name in menu:
        if name not in errors:
            errors[name] = _errors(checkpoint, name, _with_low(checkpoint.tensors[name], menu[name]), None)
    found = {}
    for name, by_format in errors.items():
        left = gain if name in importance else min(1.0, _HEAD_GAIN * gain)
        found[name] = TensorErrors(_low(checkpoint.tensors[name]), by_format, left)
    return found, importance


def _low(spec: TensorSpec) -> Format:
    return low_format(spec.shape[0], spec.shape[1])


def _with_low(spec: TensorSpec, menu: tuple[Format, ...]) -> tuple[Format, ...]:
    low = _low(spec)
    return menu if low in menu else (*menu, low)


def _sampled(checkpoint: Checkpoint, name: str, count: int) -> FloatArray:
    """About so many rows from all over a weight, float32 [n, columns], without reading the others."""
    spec = checkpoint.tensors[name]
    rows, together = spec.shape[0], spec.format.row_multiple if spec.format is not None else 1
    if rows <= count or together == 0:
        return np.ascontiguousarray(read_float32(checkpoint, name)[:: max(1, rows // count)])
    run = -(-max(1, count // _RUNS) // together) * together
    step = max(run, rows // _RUNS // together * together)
    starts = range(0, rows, step)
    return np.concatenate([read_float32(checkpoint, name, start, min(start + run, rows)) for start in starts])


def _errors(checkpoint: Checkpoint, name: str, menu: tuple[Format, ...], second: FloatArray | None) -> dict[str, float]:
    """Share of the outputs' energy that each format turns into noise; of the weight's own, without moments."""
    weight = _sampled(checkpoint, name, _ERROR_ROWS)
    importance = None if second is None else np.diagonal(second).copy()
    energy = _energy(weight, second)
    return {
        fmt.name: _energy(weight - kernels.decode(kernels.encode(weight, fmt, importance)), second) / energy
        if energy > 0
        else 0.0
        for fmt in menu
    }


def _energy(weight: FloatArray, second: FloatArray | None) -> float:
    seen = weight if second is None else weight @ second
    return float(np.einsum("rc,rc->", seen, weight, dtype=np.float64))


def _solver_gain(checkpoint: Checkpoint, name: str, statistics: Statistics) -> float:
    """What the solver leaves of the error of weighted nearest codes, on some rows of one weight.

    Measured to be the same, within a tenth, for all linear layers and formats of a model.
    """
    weight = _sampled(checkpoint, name, _SOLVED_ROWS)
    losses = list(solvers.by_name("feedback").solve(weight, statistics, _low(checkpoint.tensors[name])).losses.items())
    by_step = dict(losses)
    before = by_step.get("weighted", 0.0)
    return min(max(losses[-1][1] / before, _LEAST_GAIN), 1.0) if before > 0 else 1.0


@dataclass(slots=True)
class _Watched:
    """The original model and what it answered; `kl` rounds some of it and asks again."""

    checkpoint: Checkpoint
    config: ModelConfig
    low: Mapping[str, Format]
    importance: Mapping[str, FloatArray]
    parts: list[Batch]
    ends: Ends
    inputs: list[list[FloatArray]]
    answers: dict[int, tuple[FloatArray, FloatArray]] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        checkpoint: Checkpoint,
        windows: Sequence[Window],
        low: Mapping[str, Format],
        importance: Mapping[str, FloatArray],
    ) -> _Watched:
        """Let the original read the text; what goes into every block is kept."""
        config = known_config(checkpoint)
        parts = batches(windows)
        ends = load_ends(checkpoint, config)
        inputs = [[ends.embed(part.ids) for part in parts]]
        for layer in range(config.layers):
            block = load_block(checkpoint, config, layer)
            inputs.append([block.forward(state) for state in inputs[-1]])
        return cls(checkpoint, config, low, importance, parts, ends, inputs)

    def kl(self, names: Sequence[str]) -> float:
        """Mean KL divergence over all tokens, in nats, with these tensors rounded."""
        rounded = frozenset(names)

        def prepare(name: str, weight: Weight) -> Weight:
            if name not in rounded:
                return weight
            # Plain floats are encoded as they are, without a copy of the whole in float32.
            values = kernels.decode(weight) if isinstance(weight, QuantizedTensor) else weight
            return kernels.encode(values, self.low[name], self.importance.get(name))

        outer = any(_layer(name) is None for name in names)
        ends = load_ends(self.checkpoint, self.config, prepare if outer else as_read) if outer else self.ends
        start = min((_first_layer((name,)) for name in names), default=self.config.layers)
        start = self.config.layers if outer and self._only_head(names) else start
        states = self.inputs[start]
        if outer and start == 0:
            states = [ends.embed(part.ids) for part in self.parts]
        for layer in range(start, self.config.layers):
            block = load_block(self.checkpoint, self.config, layer, prepare)
            states = [block.forward(state) for state in states]
        return self._divergence(ends, states)

    def _only_head(self, names: Sequence[str]) -> bool:
        roles = roles_of(self.checkpoint)
        return all(roles.get(name) is Role.HEAD for name in names)

    def _divergence(self, ends: Ends, states: Sequence[FloatArray]) -> float:
        total, tokens, place = 0.0, 0, 0
        step = max(1, _LOGITS_AT_A_TIME // self.config.vocab_size)
        for state, original in zip(states, self.inputs[-1], strict=True):
            rows, before = state.reshape(-1, state.shape[-1]), original.reshape(-1, state.shape[-1])
            for start in range(0, len(rows), step):
                shares, logs = self._answer(place, before[start : start + step])
                logits = ends.head(rows[start : start + step])
                # KL = sum p (log p - logits) + log sum exp(logits), the second term of this token's own.
                total += float(np.einsum("tv,tv->", shares, logs - logits, dtype=np.float64))
                total += float(_log_sum(logits).sum(dtype=np.float64))
                tokens += len(logits)
                place += 1
        return total / tokens

    def _answer(self, place: int, hidden: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Probabilities of the original and their logarithms, kept when they are few."""
        if place in self.answers:
            return self.answers[place]
        logits = self.ends.head(hidden)
        logs = logits - _log_sum(logits)[:, np.newaxis]
        answer = (np.exp(logs), logs)
        if sum(shares.size for shares, _ in self.answers.values()) < _CACHED_LOGITS:
            self.answers[place] = answer
        return answer


def _log_sum(logits: FloatArray) -> FloatArray:
    largest = logits.max(axis=-1)
    result: FloatArray = np.log(np.exp(logits - largest[:, np.newaxis]).sum(axis=-1)) + largest
    return result


def _layer(name: str) -> int | None:
    """Number of the block that a tensor belongs to."""
    words = name.split(".")
    numbers = [int(word) for before, word in pairwise(words) if before == "layers"]
    return numbers[0] if numbers else None


def _first_layer(names: Sequence[str]) -> int:
    return min((_layer(name) or 0) for name in names)
