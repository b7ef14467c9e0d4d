"""What each step of our solvers is worth: KL after each, step upon step, over several calibration texts.

    python benchmarks/ablation.py demo /models/second --formats q4_k int4-g128-bf16 --seeds 3 --json results.json

Only the matrices of the blocks are quantized, all to one format; embedding, head and norms stay as they are. A seed
begins the calibration text in another place. A step's gain is its KL against that of the step it builds on, seed by
seed: mean and standard deviation over seeds. `quantized` in the column `inputs` means that a weight is chosen for the
inputs that the quantized matrices before it give; `y` in `made up` that it also makes up for what they did to them.
A step whose solver this version does not have is listed as such.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import halfpint
import reporting
from calibration_text import windows_of
from halfpint import formats, kernels
from halfpint.calibration.dual_stream import calibrate
from halfpint.calibration.text import Window
from halfpint.checkpoints.checkpoint import Checkpoint
from halfpint.engine.weights import Weight
from halfpint.families.record import LINEAR_ROLES
from halfpint.kernels.linear import decoded
from halfpint.pipeline.options import CalibrationOptions
from halfpint.planning.planner import roles_of
from halfpint.solvers import SOLVERS
from halfpint.solvers.statistics import Moments, Statistics
from halfpint.tensors import FloatArray, Format
from scoring import Yardstick

ORIGINAL, QUANTIZED = "original", "quantized"
FORMS = {
    "model": "<14",
    "format": "<16",
    "step": "<34",
    "inputs": "<9",
    "made up": "<7",
    "KL": ">10.6f",
    "spread": ">9.6f",
    "of": "<28",
    "gain": ">7.1%",
    "gain spread": ">11.1%",
    "left out": "<1",
}


@dataclass(frozen=True)
class Step:
    """One way to choose the codes of all weights.

    Attributes
    ----------
    name : str
    solver : str
        A key of `SOLVERS`.
    inputs : str
        Whether the text reaches a weight through the original model, or through what is quantized of it so far.
    mismatch : bool
        Whether the solver is told what the original model gives there.
    base : str
        The step that its gain is counted from; empty for the first.
    """

    name: str
    solver: str
    inputs: str
    mismatch: bool
    base: str


STEPS = (
    Step("nearest", "nearest", ORIGINAL, False, ""),
    Step("weighted by inputs", "weighted", ORIGINAL, False, "nearest"),
    Step("error feedback", "unrefined", ORIGINAL, False, "weighted by inputs"),
    Step("quantized inputs", "unrefined", QUANTIZED, False, "error feedback"),
    Step("mismatch made up for", "unrefined", QUANTIZED, True, "quantized inputs"),
    Step("refinement: all of it", "feedback", QUANTIZED, True, "mismatch made up for"),
    Step("all but mismatch", "feedback", QUANTIZED, False, "quantized inputs"),
    Step("all but quantized inputs", "feedback", ORIGINAL, False, "error feedback"),
)


def without_shift(statistics: Statistics) -> Statistics:
    """The same, as if the original model's outputs were not known."""
    first, second = statistics.halves
    halves = Moments(first.second, None, first.tokens), Moments(second.second, None, second.tokens)
    return replace(statistics, halves=halves)


def _told(step: Step, statistics: Statistics | None) -> Statistics | None:
    # Nearest rounding weighs columns by their inputs when it is told of them.
    if SOLVERS[step.solver].needs == "nothing" or statistics is None:
        return None
    return statistics if step.mismatch else without_shift(statistics)


@dataclass
class Bench:
    """One model and format."""

    name: str
    checkpoint: Checkpoint
    yardstick: Yardstick
    format: Format

    @property
    def linear(self) -> frozenset[str]:
        """The matrices of the blocks."""
        return frozenset(name for name, role in roles_of(self.checkpoint).items() if role in LINEAR_ROLES)

    def refusals(self) -> list[str]:
        """Which of them the format does not fit, and why."""
        shapes = {name: self.checkpoint.tensors[name].shape for name in self.linear}
        reasons = {name: self.format.refusal(*shape) for name, shape in shapes.items()}
        return [f"{name}: {reason}" for name, reason in sorted(reasons.items()) if reason]

    def solve_all(self, steps: Sequence[Step], windows: Sequence[Window]) -> dict[str, dict[str, FloatArray]]:
        """Weights that each step gives, decoded; one pass of the text serves all steps that share their inputs.

        Steps whose inputs are those of the quantized model cannot share a pass: give them one by one.
        """
        assert len(steps) == 1 or all(step.inputs == ORIGINAL for step in steps)
        chosen: dict[str, dict[str, FloatArray]] = {step.name: {} for step in steps}

        def solve(name: str, statistics: Statistics | None) -> Weight:
            original = self.checkpoint.read(name)
            if name not in self.linear:
                return original
            weight = np.ascontiguousarray(decoded(original), dtype=np.float32)
            for step in steps:
                told = _told(step, statistics)
                chosen[step.name][name] = kernels.decode(
                    SOLVERS[step.solver].solve(weight, told, self.format).quantized
                )
            return original if steps[0].inputs == ORIGINAL else chosen[steps[0].name][name]

        calibrate(self.checkpoint, windows, self.linear, solve)
        return chosen

    def divergences(self, windows: Sequence[Window]) -> dict[str, float]:
        """Mean KL after each step that this version has."""
        there = [step for step in STEPS if step.solver in SOLVERS]
        passes = [[step for step in there if step.inputs == ORIGINAL]]
        passes += [[step] for step in there if step.inputs == QUANTIZED]
        result: dict[str, float] = {}
        for steps in passes:
            for name, weights in self.solve_all(steps, windows).items():
                result[name] = self.yardstick.score_weights(weights).quality.kl_mean
        return result

    def rows(self, by_seed: Sequence[Mapping[str, float]]) -> Iterator[dict[str, Any]]:
        """One row for each step."""
        for step in STEPS:
            row: dict[str, Any] = {
                "model": self.name,
                "format": self.format.name,
                "step": step.name,
                "solver": step.solver,
                "inputs": step.inputs,
                "made up": "y" if step.mismatch else "n",
            }
            if step.solver not in SOLVERS:
                yield {**row, "left out": f"this version has no solver {step.solver!r}"}
                continue
            values = np.array([seed[step.name] for seed in by_seed])
            row |= {"KL": values.mean(), "spread": _spread(values), "by seed": values.tolist(), "of": step.base or None}
            if step.base in by_seed[0]:
                gains = 1 - values / np.array([seed[step.base] for seed in by_seed])
                row |= {"gain": gains.mean(), "gain spread": _spread(gains)}
            yield row


def _spread(values: np.ndarray) -> float:
    return float(values.std(ddof=1)) if len(values) > 1 else float("nan")


def rows(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Every model and format in turn."""
    for model in arguments.models:
        yardstick = Yardstick(model, arguments.text, arguments.tokens)
        checkpoint = halfpint.open_model(model)
        for format_name in arguments.formats:
            bench = Bench(Path(model).name, checkpoint, yardstick, formats.by_name(format_name))
            refusals = bench.refusals()
            if refusals:
                note = f"{len(refusals)} matrices do not fit, such as {refusals[0]}"
                yield {"model": bench.name, "format": format_name, "left out": note}
                continue
            texts = [
                windows_of(model, CalibrationOptions(tokens=arguments.calibration_tokens, seed=seed))
                for seed in range(arguments.seeds)
            ]
            yield from bench.rows([bench.divergences(windows) for windows in texts])
        checkpoint.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="`demo`, or folders in the layout of Hugging Face")
    parser.add_argument("--formats", nargs="+", default=("q4_k", "q4_0", "int4-g128-bf16"))
    parser.add_argument("--seeds", type=int, default=3, help="calibration texts")
    parser.add_argument("--text", nargs="+", default=(), type=Path, help="held-out text; without it the bundled one")
    parser.add_argument("--tokens", type=int, default=16384, help="about so many held-out tokens")
    parser.add_argument("--calibration-tokens", type=int, default=0, help="0 for our default")
    parser.add_argument("--json", type=Path, help="where the numbers go")
    arguments = parser.parse_args()
    reporting.print_setting()
    print(reporting.heading(FORMS))
    measured = []
    for row in rows(arguments):
        measured.append(row)
        print(reporting.line(row, FORMS), flush=True)
        reporting.save(arguments.json, measured)


if __name__ == "__main__":
    main()
