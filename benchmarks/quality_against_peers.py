r"""Claim: at the same bytes, tensor by tensor, our GGUF files are closer to the original than llama.cpp's own.

    python benchmarks/quality_against_peers.py demo /models/second /models/babyllama-105 --json results.json

For every model, block type and setting llama.cpp quantizes with an importance matrix of the calibration text that we
use ourselves, the formats of its file are read back, and we quantize with just these. `pure`: every matrix in that
type. `mix`: what llama.cpp makes of the file type of that name, which gives some tensors more. Both files are read
and measured by the same code on the same held-out text. The ratio is ours / theirs: below 1 is a gain; its standard
error takes a window of text as one draw.

A second model of another shape than the demo, trained on short stories, comes from

    python demo/train.py STORIES_FOLDER RUN_FOLDER --text stories --minutes 100 --threads 1 --shape vocabulary=1024 \
        layers=5 heads=4 key_value_heads=4 intermediate=1024 tied=false
    python demo/export.py STORIES_FOLDER RUN_FOLDER SECOND_MODEL --text stories
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

import halfpint
import reporting
from calibration_text import windows_of
from halfpint.pipeline.options import CalibrationOptions, QuantizeOptions
from llama_peer import MIXED_FILE_TYPES, PURE_FILE_TYPES, LlamaCpp, engine, importance, plain_gguf, rules_like
from scoring import Score, Yardstick, kl_ratio

TYPES = ("Q4_K", "Q4_0", "Q4_1", "IQ4_NL", "Q6_K", "Q3_K", "IQ4_XS")
SETTINGS = ("pure", "mix")
FORMS = {
    "model": "<14",
    "setting": "<5",
    "type": "<7",
    "bytes": ">10d",
    "same bytes": ">10",
    "KL theirs": ">10.6f",
    "KL ours": ">10.6f",
    "ratio": ">6.3f",
    "stderr": ">6.3f",
    "top-1 theirs": ">12.4f",
    "top-1 ours": ">10.4f",
    "s theirs": ">8.1f",
    "s ours": ">7.1f",
}


@dataclass
class Bench:
    """One model, ready to be quantized by both."""

    name: str
    model: str
    yardstick: Yardstick
    peer: LlamaCpp
    plain: Path
    importance: dict[str, np.ndarray]
    calibration: CalibrationOptions

    def theirs(self, type_name: str, setting: str, output: Path) -> float:
        """Let llama.cpp write a file; the seconds that it took."""
        names = PURE_FILE_TYPES if setting == "pure" else MIXED_FILE_TYPES
        file_type = names.get(type_name, type_name)
        started = time.monotonic()
        self.peer.quantize_file(self.plain, output, file_type, importance=self.importance, pure=setting == "pure")
        return time.monotonic() - started

    def ours(self, score: Score, output: Path) -> float:
        """Write a file with the formats of theirs; the seconds that it took."""
        options = QuantizeOptions(
            rules=rules_like(score.formats), calibrate=True, calibration=self.calibration, measure=None
        )
        started = time.monotonic()
        halfpint.quantize(self.model, output, options)
        return time.monotonic() - started

    def row(self, type_name: str, setting: str, folder: Path) -> dict[str, Any]:
        """Both files, measured; they are removed again."""
        files = folder / "theirs.gguf", folder / "ours.gguf"
        try:
            their_seconds = self.theirs(type_name, setting, files[0])
            theirs = self.yardstick.score(files[0])
            our_seconds = self.ours(theirs, files[1])
            ours = self.yardstick.score(files[1])
        finally:
            for file in files:
                file.unlink(missing_ok=True)
        ratio = kl_ratio(ours, theirs)
        return {
            "model": self.name,
            "setting": setting,
            "type": type_name,
            "formats": ", ".join(sorted(set(theirs.formats.values()))),
            "bytes": ours.tensor_bytes,
            "same bytes": "yes" if ours.tensor_bytes == theirs.tensor_bytes else f"{theirs.tensor_bytes}",
            "KL theirs": theirs.quality.kl_mean,
            "KL theirs stderr": theirs.quality.kl_mean_stderr,
            "KL ours": ours.quality.kl_mean,
            "KL ours stderr": ours.quality.kl_mean_stderr,
            "ratio": ratio.value,
            "stderr": ratio.stderr,
            "top-1 theirs": theirs.quality.top1_agreement,
            "top-1 ours": ours.quality.top1_agreement,
            "s theirs": their_seconds,
            "s ours": our_seconds,
        }


def rows(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Every model, setting and type in turn."""
    with engine(arguments.threads) as peer, TemporaryDirectory() as scratch:
        for model in arguments.models:
            folder = Path(scratch) / Path(model).name
            folder.mkdir()
            yardstick = Yardstick(model, arguments.text, arguments.tokens)
            text = CalibrationOptions(tokens=arguments.calibration_tokens)
            matrix = importance(model, windows_of(model, text))
            bench = Bench(Path(model).name, model, yardstick, peer, plain_gguf(model, folder), matrix, text)
            for setting in arguments.settings:
                for type_name in arguments.types:
                    yield bench.row(type_name, setting, folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="`demo`, or folders in the layout of Hugging Face")
    parser.add_argument("--types", nargs="+", default=TYPES, metavar="TYPE")
    parser.add_argument("--settings", nargs="+", default=SETTINGS, choices=SETTINGS)
    parser.add_argument("--text", nargs="+", default=(), type=Path, help="held-out text; without it the bundled one")
    parser.add_argument("--tokens", type=int, default=16384, help="about so many held-out tokens")
    parser.add_argument("--calibration-tokens", type=int, default=0, help="for both; 0 for our default")
    parser.add_argument("--threads", type=int, default=1, help="of llama.cpp")
    parser.add_argument("--json", type=Path, help="where the numbers go")
    arguments = parser.parse_args()
    reporting.print_setting()
    print(reporting.heading(FORMS))
    measured = []
    for row in rows(arguments):
        measured.append(row)
        print(reporting.line(row, FORMS), flush=True)
        reporting.save(arguments.json, measured)
    for setting in arguments.settings:
        ratios = [row["ratio"] for row in measured if row["setting"] == setting]
        print(f"{setting}: geometric mean of the ratios {np.exp(np.mean(np.log(ratios))):.3f}, worst {max(ratios):.3f}")


if __name__ == "__main__":
    main()
