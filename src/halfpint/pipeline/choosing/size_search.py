"""Jobs of several files: the best in a budget, held against a uniform one; the smallest that keeps a gate."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from halfpint.errors import HalfpintError
from halfpint.formats import by_name
from halfpint.pipeline.choosing.candidate_files import CandidateBuilder, CandidateFile
from halfpint.pipeline.choosing.plan_selection import AllocationProblem, byte_budget, estimate_costs, forecast
from halfpint.pipeline.choosing.quality_gate import judge
from halfpint.pipeline.job import quantization
from halfpint.pipeline.options import Gate
from halfpint.pipeline.results import Baseline, Trial
from halfpint.planning import presets
from halfpint.planning.budget import allocate
from halfpint.planning.planner import Wish, make_plan
from halfpint.plans import Plan

MOST_TRIALS = 8
"""Files that a search makes and measures at most."""

# A bracket this narrow, as a part of the size, is not worth another file.
_CLOSE = 0.005
_CURVE_POINTS = 48
# Top-1 disagreement is near this times the root of the KL divergence, until the first file tells better: 8 % at 0.028
# and 2 % at 0.0014 nats for the q4_k_m and q8_0 files of a Llama 3 8B (tools/perplexity/README.md of llama.cpp).
_DISAGREEMENT = 0.5
# Aim so much below the gate, in natural logarithms: a file just too large is worth more than one just too small.
_MARGIN = 0.03


@dataclass(frozen=True, slots=True)
class Found:
    """What a job with several files ended with.

    Attributes
    ----------
    made : CandidateFile
        What is at the output now.
    baseline : Baseline or None
    trials : tuple of Trial
    additivity : float or None
    """

    made: CandidateFile
    baseline: Baseline | None = None
    trials: tuple[Trial, ...] = ()
    additivity: float | None = None


def best_within(builder: CandidateBuilder, output: Path) -> Found:
    """Make the best mixture in a budget, and the best uniform one of at most its size; keep the better of the two.

    Without a comparison there is no telling which is better, so that no uniform one is made.
    """
    quantization.refuse_target(builder.source, output)
    room = byte_budget(builder.source, builder.options)
    problem = estimate_costs(builder.source, builder.options, builder.progress, room.nbytes)
    planned = forecast(builder.source, builder.options, problem.within(room.nbytes), room.need, problem)
    uniform = _uniform(builder, problem, planned.plan) if builder.windows is not None else None
    if uniform is None:
        made = builder.make(planned, output)
        return Found(made, additivity=_additivity(made))
    name, plan = uniform
    with _aside(output) as folder:
        # First what may be thrown away: a job that is stopped goes on with the output, which comes last.
        uniformly = forecast(builder.source, builder.options, plan, room.need, problem)
        other = builder.make(uniformly, folder / output.name, again=True)
        made = builder.make(planned, output, again=True)
        additivity = _additivity(made)
        assert made.measurement is not None
        assert other.measurement is not None
        better = other.measurement.quality.kl_mean < made.measurement.quality.kl_mean
        baseline = Baseline(name, plan.nbytes, other.measurement.quality, better)
        if better:
            output.rename(folder / f"mixture {output.name}")
            made = _moved(other, output)
    return Found(made, baseline, additivity=additivity)


def smallest_passing(builder: CandidateBuilder, output: Path) -> Found:
    """Make files of several sizes, each from what the ones before have taught, and keep the smallest that passes.

    At most `MOST_TRIALS`. If none of them passes, the best is kept, and fails.
    """
    quantization.refuse_target(builder.source, output)
    problem = estimate_costs(builder.source, builder.options, builder.progress)
    search = _Search.of(problem, builder.options.gate)
    kept: CandidateFile | None = None
    with _aside(output) as folder:
        while len(search.trials) < MOST_TRIALS:
            target = search.next_size()
            if target is None:
                break
            planned = forecast(builder.source, builder.options, problem.within(target), None, problem)
            if any(trial.nbytes == planned.plan.nbytes for trial in search.trials):
                search.close(target)
                continue
            made = builder.make(planned, folder / f"{len(search.trials)}{output.suffix}", again=True)
            search.learn(made)
            kept = _better(kept, made, builder.options.gate)
        assert kept is not None, "a search makes a file at least"
        kept = _moved(kept, output)
    return Found(kept, trials=tuple(search.trials), additivity=_additivity(kept))


def _better(kept: CandidateFile | None, made: CandidateFile, gate: Gate) -> CandidateFile:
    """The smaller of two that pass, the one that passes, or the closer one."""
    if kept is None:
        return made

    def rank(candidate: CandidateFile) -> tuple[bool, float]:
        assert candidate.measurement is not None
        passed = judge(gate, candidate.measurement.quality)[0] == "PASS"
        return (not passed, candidate.planned.plan.nbytes if passed else candidate.measurement.quality.kl_mean)

    return min(kept, made, key=rank)


def _moved(made: CandidateFile, output: Path) -> CandidateFile:
    made.written.output.rename(output)
    return replace(made, written=replace(made.written, output=output))


def _additivity(made: CandidateFile) -> float | None:
    predicted = made.planned.kl_mean
    if made.measurement is None or not predicted:
        return None
    return made.measurement.quality.kl_mean / predicted


@contextmanager
def _aside(output: Path) -> Iterator[Path]:
    """A private folder beside the output, gone afterwards whatever happens."""
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as folder:
        try:
            yield Path(folder)
        except BaseException as error:
            # What a job has left in here goes too, so that its advice to go on is void.
            error.__notes__ = [note for note in getattr(error, "__notes__", []) if folder not in note]
            raise


def _uniform(builder: CandidateBuilder, problem: AllocationProblem, mixture: Plan) -> tuple[str, Plan] | None:
    """Choose the preset or single format that should do best in the size of a mixture; None when none is so small."""
    container = problem.container
    wishes = {f"--bits {bits}": replace(problem.wish, bits=bits) for bits in presets.PRESETS[container.name]}
    for name in presets.CANDIDATES[container.name]:
        wishes[f"--format {name}"] = replace(problem.wish, format=by_name(name))
    found: list[tuple[float, str, Plan]] = []
    for name, wish in wishes.items():
        plan = _plan_or_none(builder, problem, wish)
        if plan is not None and plan.nbytes <= mixture.nbytes:
            found.append((problem.cost(plan), name, plan))
    best = min(found, key=lambda entry: entry[0], default=None)
    return None if best is None else best[1:]


def _plan_or_none(builder: CandidateBuilder, problem: AllocationProblem, wish: Wish) -> Plan | None:
    """A plan that the engine loads, or None."""
    try:
        plan = make_plan(builder.source, problem.container, wish)
        forecast(builder.source, builder.options, plan)
    except HalfpintError:
        return None
    return plan


@dataclass(slots=True)
class _Search:
    """What is known of the sizes so far: the curve that costs foretell, and what files of some sizes have shown."""

    gate: Gate
    sizes: list[int]
    costs: list[float]
    trials: list[Trial] = field(default_factory=list)
    scale: float = 1.0
    disagreement: float = _DISAGREEMENT
    too_small: int = 0
    enough: int = 0

    @classmethod
    def of(cls, problem: AllocationProblem, gate: Gate) -> _Search:
        """Foretell the cost of many sizes, from the smallest mixture to the model as it is."""
        smallest = [min(group.choices, key=lambda choice: choice.nbytes) for group in problem.groups]
        largest = [max(group.choices, key=lambda choice: choice.nbytes) for group in problem.groups]
        low, high = (sum(choice.nbytes for choice in choices) for choices in (smallest, largest))
        by_name = {name: group for group in problem.groups for name in group.names}
        assert by_name, "nothing to decide"
        # Headers and what is fixed come on top.
        overhead = problem.within(2 * high + (1 << 40)).nbytes - high
        curve = []
        for limit in np.geomspace(low, high, _CURVE_POINTS).astype(np.int64).tolist():
            chosen = allocate(problem.groups, max(int(limit), low), exact=False)
            curve.append((sum(c.nbytes for c in chosen) + overhead, sum(c.cost for c in chosen)))
        curve.append((high + overhead, 0.0))
        sizes, costs = zip(*curve, strict=True)
        # Headers are longer or shorter by some bytes, and no file is smaller than the smallest.
        least = problem.smallest().nbytes
        sizes = tuple(max(size, least) for size in sizes)
        return cls(gate, list(sizes), list(costs), too_small=sizes[0] - 1, enough=0)

    def next_size(self) -> int | None:
        """Bytes that the next file should have; None when neighbours bracket the gate."""
        top = self.enough or self.sizes[-1]
        if self.enough and (top - self.too_small <= _CLOSE * top or self.enough <= self.sizes[0]):
            return None
        if not self.enough and self.trials and self.too_small >= self.sizes[-1]:
            return None
        guess = self._foretold()
        if self.enough and self._failed():
            guess = self._between()
        if self.enough and guess >= top:
            guess = int(top * (1 - _CLOSE))
        if guess <= self.too_small and self._failed():
            guess = (self.too_small + top) // 2 if self.enough else self._after(self.too_small)
        return max(min(guess, self.sizes[-1]), self.sizes[0])

    def learn(self, made: CandidateFile) -> None:
        """Take in what a file has shown."""
        assert made.measurement is not None
        quality, nbytes = made.measurement.quality, made.planned.plan.nbytes
        passed = judge(self.gate, quality)[0] == "PASS"
        self.trials.append(Trial(nbytes, quality, passed))
        if passed:
            self.enough = min(nbytes, self.enough or nbytes)
        else:
            self.too_small = max(nbytes, self.too_small)
        if made.planned.kl_mean and quality.kl_mean > 0:
            self.scale = quality.kl_mean / made.planned.kl_mean
            self.disagreement = max(1 - quality.top1_agreement, 1e-6) / math.sqrt(quality.kl_mean)

    def close(self, nbytes: int) -> None:
        """No file lies between this size and one that was made: the search goes on above it."""
        self.too_small = max(self.too_small, nbytes)

    def _failed(self) -> bool:
        return any(not trial.passed for trial in self.trials)

    def _excess(self, kl: float, disagreement: float) -> float:
        """How far beyond the gate, in natural logarithms; not positive where it passes."""
        parts = [-math.inf]
        if self.gate.max_kl != math.inf:
            parts.append(_log_ratio(kl, self.gate.max_kl))
        if self.gate.keep > 0:
            parts.append(_log_ratio(disagreement, 1 - self.gate.keep))
        return max(parts)

    def _foretold(self) -> int:
        """The smallest size that should pass."""
        for nbytes, cost in zip(self.sizes, self.costs, strict=True):
            kl = self.scale * cost
            if self._excess(kl, self.disagreement * math.sqrt(kl)) <= -_MARGIN:
                return nbytes
        return self.sizes[-1]

    def _between(self) -> int:
        """Where the line from the largest file that failed to the smallest that passed meets the gate."""
        failed = max((t for t in self.trials if not t.passed), key=lambda trial: trial.nbytes)
        passed = min((t for t in self.trials if t.passed), key=lambda trial: trial.nbytes)
        above, below = (
            self._excess(trial.quality.kl_mean, 1 - trial.quality.top1_agreement) for trial in (failed, passed)
        )
        span = above - below
        share = above / span if math.isfinite(span) and span > 0 else 0.5
        width = self.enough - self.too_small
        return self.too_small + int(width * min(max(share, 0.1), 0.9))

    def _after(self, nbytes: int) -> int:
        """A step up the curve."""
        larger = [size for size in self.sizes if size > nbytes * 1.1]
        return larger[0] if larger else self.sizes[-1]


def _log_ratio(value: float, limit: float) -> float:
    if value <= 0:
        return -math.inf
    return math.log(value / limit) if limit > 0 else math.inf
