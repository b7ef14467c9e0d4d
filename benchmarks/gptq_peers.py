"""Claim: at the same bits and groups our integers are closer to the original than those of GPTQ's best tools.

    python benchmarks/gptq_peers.py demo /models/second --json results.json

The peers read the very same calibration tokens, each at its best settings (see the scripts in `peers/`), in
environments of their own below `HALFPINT_PEERS`; how to make them is in `README.md`. Their results are measured by the
same code as ours, on the same held-out text. Only matrices of blocks are quantized, by all. `bytes` are those of the
quantized matrices: codes and scales.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import halfpint
import reporting
from calibration_text import save_tokens, windows_of
from halfpint.pipeline.options import CalibrationOptions, QuantizeOptions
from scoring import Score, Yardstick, kl_ratio

HERE = Path(__file__).parent
FORMS = {
    "model": "<14",
    "format": "<15",
    "who": "<22",
    "KL": ">10.6f",
    "KL stderr": ">10.6f",
    "ours / theirs": ">13.3f",
    "stderr": ">6.3f",
    "top-1": ">7.4f",
    "seconds": ">8.1f",
    "failed": "<1",
}


@dataclass(frozen=True)
class Peer:
    """A tool in an environment of its own.

    Attributes
    ----------
    environment : str
        Folder below `HALFPINT_PEERS`.
    script : str
        In `peers/`.
    words : tuple of str
        Its arguments after model, tokens and output; `{bits}` and `{group}` are filled in.
    bits : tuple of int
        Widths that it can write.
    """

    environment: str
    script: str
    words: tuple[str, ...]
    bits: tuple[int, ...] = (3, 4)


PEERS = {
    "llm-compressor GPTQ": Peer("llm_compressor", "llm_compressor.py", ("{bits}", "{group}")),
    "GPTQModel GPTQ": Peer("gptqmodel", "gptqmodel_gptq.py", ("{bits}", "{group}")),
    "GPTQModel GPTAQ": Peer("gptqmodel", "gptqmodel_gptq.py", ("{bits}", "{group}", "mismatch")),
    "AutoRound 200": Peer("auto_round", "auto_round_tuned.py", ("W{bits}A16", "{group}", "fake", "200")),
}


class PeerError(Exception):
    """A peer is not installed, or failed; the message has the end of what it said."""


def run_peer(peer: Peer, model: Path, tokens: Path, output: Path, words: dict[str, int]) -> float:
    """Let a peer write its result; the seconds that its quantizing took, loading and saving not counted.

    Raises
    ------
    PeerError
    """
    python = Path(os.environ.get("HALFPINT_PEERS", HERE.parent / ".peers")) / peer.environment / "bin" / "python"
    if not python.exists():
        raise PeerError(f"not installed: {python}")
    arguments = [word.format(**words) for word in peer.words]
    # No peer needs a hub, and one that asks for it should say so at once.
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    environment.pop("PYTHONPATH", None)
    command = [str(python), str(HERE / "peers" / peer.script), str(model), str(tokens), str(output), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=output.parent, check=False)
    if done.returncode:
        raise PeerError((done.stderr or done.stdout)[-400:].strip().replace("\n", " | "))
    return float(json.loads((output / "seconds.json").read_text()))


@dataclass
class Bench:
    """One model, its text, and a folder to work in."""

    name: str
    model: str
    source: Path
    yardstick: Yardstick
    tokens: Path
    calibration: CalibrationOptions
    folder: Path

    def theirs(self, peer: Peer, bits: int, group: int) -> tuple[Score, float]:
        """A peer's result, measured and removed."""
        output = self.folder / "theirs"
        try:
            seconds = run_peer(peer, self.source, self.tokens, output, {"bits": bits, "group": group})
            return self.yardstick.score(output), seconds
        finally:
            shutil.rmtree(output, ignore_errors=True)

    def ours(self, format_name: str) -> tuple[Score, float]:
        """Our result, measured and removed."""
        output = self.folder / "ours"
        options = QuantizeOptions(
            format=format_name,
            container="compressed-tensors",
            calibrate=True,
            calibration=self.calibration,
            measure=None,
        )
        started = time.monotonic()
        try:
            halfpint.quantize(self.model, output, options)
            seconds = time.monotonic() - started
            return self.yardstick.score(output), seconds
        finally:
            shutil.rmtree(output, ignore_errors=True)

    def rows(self, bits: int, group: int, peers: list[str]) -> Iterator[dict[str, Any]]:
        """Ours first, then every peer against it; one that fails has a row that says so."""
        name = f"int{bits}-g{group}-bf16"
        ours, seconds = self.ours(name)
        yield self._row(name, "halfpint", ours, seconds)
        for who in peers:
            peer = PEERS[who]
            if bits not in peer.bits:
                yield {"model": self.name, "format": name, "who": who, "failed": f"writes no {bits} bits"}
                continue
            try:
                theirs, seconds = self.theirs(peer, bits, group)
            except PeerError as error:
                yield {"model": self.name, "format": name, "who": who, "failed": str(error)}
                continue
            ratio = kl_ratio(ours, theirs)
            row = self._row(name, who, theirs, seconds)
            yield {**row, "ours / theirs": ratio.value, "stderr": ratio.stderr}

    def _row(self, format_name: str, who: str, score: Score, seconds: float) -> dict[str, Any]:
        return {
            "model": self.name,
            "format": format_name,
            "who": who,
            "KL": score.quality.kl_mean,
            "KL stderr": score.quality.kl_mean_stderr,
            "top-1": score.quality.top1_agreement,
            "seconds": seconds,
            "formats": sorted(set(score.formats.values())),
        }


def rows(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Every model and width in turn."""
    calibration = CalibrationOptions(tokens=arguments.calibration_tokens)
    ours = CalibrationOptions(tokens=arguments.our_tokens or arguments.calibration_tokens)
    with TemporaryDirectory() as scratch:
        for model in arguments.models:
            folder = Path(scratch) / Path(model).name
            folder.mkdir()
            checkpoint = halfpint.open_model(model)
            source = checkpoint.path.absolute()
            checkpoint.close()
            tokens = folder / "tokens.npz"
            save_tokens(windows_of(model, calibration), tokens)
            yardstick = Yardstick(model, arguments.text, arguments.tokens)
            bench = Bench(Path(model).name, model, source, yardstick, tokens, ours, folder)
            for bits in arguments.bits:
                yield from bench.rows(bits, arguments.group, arguments.peers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="`demo`, or folders in the layout of Hugging Face")
    parser.add_argument("--bits", nargs="+", type=int, default=(4, 3))
    parser.add_argument("--group", type=int, default=128)
    parser.add_argument("--peers", nargs="+", default=list(PEERS), choices=PEERS)
    parser.add_argument("--text", nargs="+", default=(), type=Path, help="held-out text; without it the bundled one")
    parser.add_argument("--tokens", type=int, default=16384, help="about so many held-out tokens")
    parser.add_argument("--calibration-tokens", type=int, default=0, help="for all; 0 for our default")
    parser.add_argument("--our-tokens", type=int, default=0, help="the peers get more text; 0 for the same")
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
