"""Claim: at any size our files are closer to the original than those of other tools.

    python benchmarks/size_against_kl.py demo /models/second --output benchmarks/results/size_against_kl
    python benchmarks/size_against_kl.py demo --extend --llama --formats --budgets

Writes OUTPUT.json with the numbers and OUTPUT.html with the charts. For each model: every file type of llama.cpp, with
an importance matrix of the calibration text; AutoRound, where it is installed (see `README.md`), on the same tokens;
ours, all matrices of the blocks in one format; ours with a budget, for which formats are chosen tensor by tensor. Bits
per weight count the whole weight file: embeddings, scales and headers.

With `--extend` the points that are in OUTPUT.json stay, except those measured anew, and so do the commands that they
came from; an option without values leaves its series out, so that the second command adds AutoRound alone.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

import chart
import halfpint
import reporting
from calibration_text import save_tokens, windows_of
from gptq_peers import Peer, PeerError, run_peer
from halfpint.errors import HalfpintError
from halfpint.pipeline.options import Budget, CalibrationOptions, QuantizeOptions
from llama_peer import FILE_TYPES, LlamaCpp, engine, importance, plain_gguf
from scoring import Yardstick

LLAMA_TYPES = tuple(name for name in FILE_TYPES if name not in ("F32", "F16", "BF16"))
OUR_FORMATS = ("q2_k", "q3_k", "q4_0", "q4_1", "iq4_nl", "iq4_xs", "q4_k", "q5_0", "q5_k", "q6_k", "q8_0")
BUDGETS = (2.75, 3.0, 3.5, 4.0, 4.5, 5.0, 5.5, 6.0, 7.0, 8.0)
# Scheme, group size, format, and the steps that its makers recommend: none for GGUF, where it searches scales instead.
AUTO_ROUND = {
    "Q4_K_S": ("GGUF:Q4_K_S", "0", "gguf:q4_k_s", 0),
    "Q4_0": ("GGUF:Q4_0", "0", "gguf:q4_0", 0),
    "Q3_K_S": ("GGUF:Q3_K_S", "0", "gguf:q3_k_s", 0),
    "Q2_K_S": ("GGUF:Q2_K_S", "0", "gguf:q2_k_s", 0),
    "int4 g128": ("W4A16", "128", "llm_compressor", 200),
}
SERIES = ("llama.cpp with imatrix", "AutoRound", "halfpint, one format", "halfpint, budget")
FORMS = {
    "model": "<14",
    "series": "<23",
    "name": "<10",
    "bytes": ">10d",
    "bits": ">6.3f",
    "KL": ">10.6f",
    "KL stderr": ">10.6f",
    "top-1": ">7.4f",
    "seconds": ">8.1f",
    "failed": "<1",
}


@dataclass
class Bench:
    """One model, and what all points need."""

    name: str
    model: str
    source: Path
    parameters: int
    yardstick: Yardstick
    calibration: CalibrationOptions
    folder: Path

    def llama(self, peer: LlamaCpp, types: list[str]) -> Iterator[dict[str, Any]]:
        """Every file type of llama.cpp."""
        matrix = importance(self.model, windows_of(self.model, self.calibration))
        plain = plain_gguf(self.model, self.folder)
        for name in types:
            output = self.folder / "llama.gguf"
            started = time.monotonic()
            peer.quantize_file(plain, output, name, importance=matrix)
            yield self._row(SERIES[0], name, output, time.monotonic() - started)

    def auto_round(self, names: list[str], iterations: int | None) -> Iterator[dict[str, Any]]:
        """AutoRound's schemes; what fails is a row that says why."""
        tokens = self.folder / "tokens.npz"
        save_tokens(windows_of(self.model, self.calibration), tokens)
        for name in names:
            *words, recommended = AUTO_ROUND[name]
            steps = recommended if iterations is None else iterations
            peer = Peer("auto_round", "auto_round_tuned.py", (*map(str, words), str(steps)))
            output = self.folder / "auto_round"
            try:
                seconds = run_peer(peer, self.source, tokens, output, {})
                files = sorted(output.glob("*.gguf"))
                row = self._row(SERIES[1], name, files[0] if files else output, seconds)
                yield {**row, "iterations": steps}
            except (PeerError, HalfpintError) as error:
                yield {"model": self.name, "series": SERIES[1], "name": name, "failed": str(error)}
            finally:
                shutil.rmtree(output, ignore_errors=True)

    def ours(self, series: str, name: str, options: QuantizeOptions) -> dict[str, Any]:
        """One of our files, or a row that says why there is none."""
        output = self.folder / "ours.gguf"
        complete = replace(options, calibrate=True, calibration=self.calibration, measure=None)
        started = time.monotonic()
        try:
            halfpint.quantize(self.model, output, complete)
        except HalfpintError as error:
            return {"model": self.name, "series": series, "name": name, "failed": str(error)}
        return self._row(series, name, output, time.monotonic() - started)

    def _row(self, series: str, name: str, path: Path, seconds: float) -> dict[str, Any]:
        checkpoint = halfpint.open_model(path)
        nbytes = checkpoint.weight_bytes
        checkpoint.close()
        score = self.yardstick.score(path)
        if path.is_file():
            path.unlink()
        return {
            "model": self.name,
            "series": series,
            "name": name,
            "bytes": nbytes,
            "bits": 8 * nbytes / self.parameters,
            "KL": score.quality.kl_mean,
            "KL stderr": score.quality.kl_mean_stderr,
            "top-1": score.quality.top1_agreement,
            "seconds": seconds,
        }


def rows(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Every model and point in turn."""
    calibration = CalibrationOptions(tokens=arguments.calibration_tokens)
    with ExitStack() as stack:
        peer = stack.enter_context(engine(arguments.threads)) if arguments.llama else None
        scratch = stack.enter_context(TemporaryDirectory())
        for model in arguments.models:
            folder = Path(scratch) / Path(model).name
            folder.mkdir()
            checkpoint = halfpint.open_model(model)
            source = checkpoint.path.absolute()
            parameters = sum(spec.parameters for spec in checkpoint.tensors.values())
            checkpoint.close()
            yardstick = Yardstick(model, arguments.text, arguments.tokens)
            bench = Bench(Path(model).name, model, source, parameters, yardstick, calibration, folder)
            if peer is not None:
                yield from bench.llama(peer, arguments.llama)
            for name in arguments.formats:
                yield bench.ours(SERIES[2], name, QuantizeOptions(format=name))
            for bits in arguments.budgets:
                yield bench.ours(SERIES[3], f"{bits:g}", QuantizeOptions(budget=Budget(bits_per_weight=bits)))
            yield from bench.auto_round(arguments.auto_round, arguments.iterations)


def page(measured: list[dict[str, Any]], settings: list[dict[str, Any]]) -> str:
    """The charts of all models, measured in these settings."""
    charts: dict[str, list[chart.Point]] = {}
    for row in measured:
        if "KL" in row:
            steps = f", {row['iterations']} steps" if "iterations" in row else ""
            point = chart.Point(row["series"], row["name"] + steps, row["bits"], row["KL"], row["KL stderr"])
            charts.setdefault(row["model"], []).append(point)
    note = "Mean KL divergence from the original on held-out text; bars are one standard error. Lower left is better."
    return chart.page("Size against divergence", charts, (SERIES[3],), settings, note)


def resume(path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The rows of a file of results, and the settings that they came from, the oldest first."""
    if not path.exists():
        return [], []
    saved = json.loads(path.read_text(encoding="utf-8"))
    measured, earlier = saved.pop("rows"), saved.pop("earlier", [])
    return measured, [*earlier, saved]


def same_point(row: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two rows are of the same file: the later takes the place of the earlier."""
    return all(row[key] == other[key] for key in ("model", "series", "name"))


def gain_at_equal_size(measured: list[dict[str, Any]], model: str) -> list[str]:
    """For each file of others: our budgeted line's KL at its size, as a part of theirs."""
    line = sorted(
        (r["bits"], r["KL"]) for r in measured if r["model"] == model and r["series"] == SERIES[3] and "KL" in r
    )
    told = []
    for row in measured:
        if row["model"] == model and row["series"] in SERIES[:2] and "KL" in row and len(line) > 1:
            bits, divergences = zip(*line, strict=True)
            if bits[0] <= row["bits"] <= bits[-1]:
                ours = float(np.exp(np.interp(row["bits"], bits, np.log(divergences))))
                told.append(f"{row['series']} {row['name']}: {ours / row['KL']:.3f}")
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="`demo`, or folders in the layout of Hugging Face")
    parser.add_argument("--llama", nargs="*", default=LLAMA_TYPES, metavar="FILE_TYPE")
    parser.add_argument("--formats", nargs="*", default=OUR_FORMATS)
    parser.add_argument("--budgets", nargs="*", type=float, default=BUDGETS, metavar="BITS_PER_WEIGHT")
    parser.add_argument("--auto-round", nargs="*", default=list(AUTO_ROUND), choices=AUTO_ROUND)
    parser.add_argument("--iterations", type=int, help="of AutoRound; without it as its makers recommend")
    parser.add_argument("--text", nargs="+", default=(), type=Path, help="held-out text; without it the bundled one")
    parser.add_argument("--tokens", type=int, default=16384, help="about so many held-out tokens")
    parser.add_argument("--calibration-tokens", type=int, default=0, help="for all; 0 for our default")
    parser.add_argument("--threads", type=int, default=1, help="of llama.cpp")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "size_against_kl")
    parser.add_argument(
        "--extend", action="store_true", help="keep the points that are in OUTPUT.json, and add to them"
    )
    arguments = parser.parse_args()
    reporting.print_setting()
    print(reporting.heading(FORMS))
    saved = arguments.output.with_suffix(".json")
    measured, earlier = resume(saved) if arguments.extend else ([], [])
    for row in rows(arguments):
        measured = [*(old for old in measured if not same_point(old, row)), row]
        print(reporting.line(row, FORMS), flush=True)
        reporting.save(saved, measured, **({"earlier": earlier} if earlier else {}))
        text = page(measured, [*earlier, reporting.setting()])
        arguments.output.with_suffix(".html").write_text(text, encoding="utf-8")
    for model in dict.fromkeys(row["model"] for row in measured):
        print(f"{model}: our budgeted KL / theirs at the same size")
        for told in gain_at_equal_size(measured, model):
            print(f"  {told}")


if __name__ == "__main__":
    main()
