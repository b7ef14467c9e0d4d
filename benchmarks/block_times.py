"""Claim: how long our calibrated job takes for a block of a larger model, against other quantizers' jobs on processors.

    python benchmarks/block_times.py --shape tinyllama-1.1b --layers 1 --tokens 32768 --json results.json

Makes a model of the shape with random weights and so few blocks, and lets everybody quantize its blocks to int4 in
groups of 128 on the same tokens, embedding and head left alone; ours and theirs take turns, `--rounds` times. Told are
seconds on the clock, and seconds of processor time, which other programs on the machine do not change by much; loading
and saving are in both. AutoRound's job is asked for `--iterations` steps; its usual 200 take proportionally longer.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import reporting
import shapes
from calibration_text import save_tokens, windows_of
from gptq_peers import PEERS, PeerError, run_peer
from halfpint.pipeline.options import CalibrationOptions

BITS, GROUP = 4, 128
FORMS = {
    "who": "<22",
    "seconds": ">9.1f",
    "processor": ">10.1f",
    "of ours": ">8.2f",
    "failed": "<1",
}


def make(shape: shapes.Shape, folder: Path) -> None:
    """Write the model."""
    folder.mkdir()
    shapes.write_config(shape, folder)
    shapes.write_tokenizer(shape, folder)
    shapes.write_shards(shape, folder, seed=0)


def ours(model: Path, tokens: int, output: Path) -> None:
    """Run our job in a process of its own."""
    command = [sys.executable, "-m", "halfpint", "quantize", str(model), str(output), "--no-measure", "--calibrate"]
    command += ["--format", f"int{BITS}-g{GROUP}-bf16", "--to", "compressed-tensors"]
    subprocess.run([*command, "--calibration-tokens", str(tokens)], check=True, capture_output=True)


def theirs(who: str, model: Path, tokens: Path, output: Path, iterations: int) -> None:
    """Run a peer's job."""
    peer = PEERS[who]
    if who.startswith("AutoRound"):
        peer = replace(peer, words=(*peer.words[:-1], str(iterations)))
    run_peer(peer, model, tokens, output, {"bits": BITS, "group": GROUP})


def rows(arguments: argparse.Namespace, folder: Path) -> Iterator[dict[str, Any]]:
    """Everybody in turn, ours first."""
    model, tokens, output = folder / "model", folder / "tokens.npz", folder / "out"
    make(replace(shapes.SHAPES[arguments.shape], layers=arguments.layers), model)
    save_tokens(windows_of(str(model), CalibrationOptions(tokens=arguments.tokens)), tokens)
    for _ in range(arguments.rounds):
        unit = 0.0
        for who in ("halfpint", *arguments.peers):
            started, before = time.monotonic(), _processor_seconds()
            try:
                if who == "halfpint":
                    ours(model, arguments.our_tokens or arguments.tokens, output)
                else:
                    theirs(who, model, tokens, output, arguments.iterations)
            except PeerError as error:
                yield {"who": who, "failed": str(error)}
                continue
            finally:
                shutil.rmtree(output, ignore_errors=True)
            processor = _processor_seconds() - before
            unit = unit or processor
            yield {
                "who": who,
                "seconds": time.monotonic() - started,
                "processor": processor,
                "of ours": processor / unit,
            }


def _processor_seconds() -> float:
    """Of all processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=shapes.SHAPES, default="tinyllama-1.1b")
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=32768, help="of calibration text")
    parser.add_argument("--our-tokens", type=int, default=0, help="the peers get more text; 0 for the same")
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=["llm-compressor GPTQ", "AutoRound 200"])
    parser.add_argument("--iterations", type=int, default=200, help="of AutoRound")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    reporting.print_setting()
    print(reporting.heading(FORMS))
    measured = []
    with TemporaryDirectory() as folder:
        for row in rows(arguments, Path(folder)):
            measured.append(row)
            print(reporting.line(row, FORMS), flush=True)
            reporting.save(arguments.json, measured, shape=arguments.shape, layers=arguments.layers)


if __name__ == "__main__":
    main()
