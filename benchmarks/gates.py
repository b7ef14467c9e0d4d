"""Claim: --keep and --max-kl find a file at most two steps larger than the smallest that passes.

    python benchmarks/gates.py /models/stories260K --keep 0.95 0.97 0.99 --max-kl 0.1 0.01 0.001 --json results.json

Exhaustive search stands against it: every preset, every single format, and the best mixtures of `--sizes` sizes spread
evenly (in logarithms) from the smallest mixture to the largest single format, each made and measured on the same text.
Of these files, those that pass and are smaller than the one found are the `steps` it is away from the best.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

import halfpint
import reporting
from halfpint.errors import HalfpintError
from halfpint.pipeline.choosing.plan_selection import priced
from halfpint.pipeline.options import Budget, CalibrationOptions, Gate, MeasureOptions, QuantizeOptions
from halfpint.planning import presets

FORMS = {
    "model": "<14",
    "gate": "<15",
    "found": ">9d",
    "agreement": ">9.4f",
    "KL": ">10.6f",
    "files": ">5d",
    "smallest": ">9d",
    "by": "<14",
    "steps": ">5d",
    "larger": ">7.2%",
    "tried": ">5d",
}


@dataclass(frozen=True)
class Ready:
    """One file of the exhaustive search, measured."""

    name: str
    nbytes: int
    agreement: float
    kl: float

    def passes(self, gate: Gate) -> bool:
        """Whether the gate lets it through."""
        return self.agreement >= gate.keep and self.kl <= gate.max_kl


class Bench:
    """One model, its options, and a folder for files that are thrown away."""

    def __init__(self, model: str, tokens: int, calibration_tokens: int, folder: Path) -> None:
        self.model, self.folder = model, folder
        self.measure = MeasureOptions(tokens=tokens)
        self.calibration = CalibrationOptions(tokens=calibration_tokens)

    def make(self, **wish: Any) -> Any:
        """Quantize as asked; the file is gone afterwards."""
        output = self.folder / "file.gguf"
        options = QuantizeOptions(calibrate=True, calibration=self.calibration, measure=self.measure, **wish)
        try:
            return halfpint.quantize(self.model, output, options)
        finally:
            output.unlink(missing_ok=True)

    def ready(self, name: str, **wish: Any) -> Ready | None:
        """One file, measured; None where there is none of the kind."""
        try:
            result = self.make(**wish)
        except HalfpintError:
            return None
        quality = result.measurement.quality
        return Ready(name, result.plan.nbytes, quality.top1_agreement, quality.kl_mean)

    def smallest(self) -> int:
        """Bytes of the smallest mixture there is."""
        checkpoint = halfpint.open_model(self.model)
        try:
            return priced(checkpoint, QuantizeOptions(calibrate=False)).smallest().nbytes
        finally:
            checkpoint.close()

    def all_files(self, sizes: int) -> Iterator[Ready]:
        """Every preset, every single format, and mixtures from the smallest of them to the largest."""
        uniform = [self.ready(f"--bits {bits}", bits=bits) for bits in presets.PRESETS["gguf"]]
        uniform += [self.ready(f"--format {name}", format=name) for name in presets.CANDIDATES["gguf"]]
        there = [file for file in uniform if file is not None]
        yield from there
        ends = self.smallest(), max(file.nbytes for file in there)
        for size in np.geomspace(*ends, sizes).astype(int).tolist():
            mixture = self.ready(f"--size {size}", budget=Budget(size_bytes=size))
            if mixture is not None:
                yield mixture


def rows(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Every model and gate in turn."""
    gates = [Gate(keep=keep) for keep in arguments.keep] + [Gate(max_kl=most) for most in arguments.max_kl]
    for model in arguments.models:
        with TemporaryDirectory() as folder:
            bench = Bench(model, arguments.tokens, arguments.calibration_tokens, Path(folder))
            files = list(bench.all_files(arguments.sizes))
            for gate in gates:
                result = bench.make(gate=gate)
                found = result.measurement.quality
                passing = sorted((file for file in files if file.passes(gate)), key=lambda file: file.nbytes)
                smaller = {file.nbytes for file in passing if file.nbytes < result.plan.nbytes}
                best = passing[0] if passing else None
                yield {
                    "model": Path(model).name,
                    "gate": f"--keep {gate.keep:g}" if gate.max_kl == math.inf else f"--max-kl {gate.max_kl:g}",
                    "found": result.plan.nbytes,
                    "agreement": found.top1_agreement,
                    "KL": found.kl_mean,
                    "files": len(files),
                    **({"smallest": best.nbytes, "by": best.name} if best else {}),
                    "steps": len(smaller),
                    "larger": result.plan.nbytes / best.nbytes - 1 if best else math.nan,
                    "tried": len(result.trials),
                }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="`demo`, or folders in the layout of Hugging Face")
    parser.add_argument("--keep", nargs="*", type=float, default=(0.95, 0.97, 0.99), metavar="SHARE")
    parser.add_argument("--max-kl", nargs="*", type=float, default=(0.1, 0.01, 0.001), metavar="NATS")
    parser.add_argument("--sizes", type=int, default=24, help="mixtures that exhaustive search makes")
    parser.add_argument("--tokens", type=int, default=0, help="held-out tokens to measure on; 0 for our default")
    parser.add_argument("--calibration-tokens", type=int, default=0, help="0 for our default")
    parser.add_argument("--json", type=Path)
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
