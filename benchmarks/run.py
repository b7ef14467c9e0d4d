"""Run every benchmark with short settings: `make bench`, or `python benchmarks/run.py [NAME ...] [--models ...]`.

Each prints its machine, versions, command and numbers. What cannot run here, for want of an engine or a peer, says so
and does not stop the others; the exit code is 1 if any failed. The claims in README and docs are those of longer runs:
give a benchmark's own options to repeat them.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import halfpint
from halfpint.pipeline.options import QuantizeOptions

HERE = Path(__file__).parent
SHORT = ("--tokens", "4096", "--calibration-tokens", "4096")


def candidate_in(scratch: str | Path) -> Path:
    """The small file that some benchmarks run on; made when the first of them needs it."""
    return Path(scratch) / "demo-q4_k.gguf"


def commands(models: list[str], scratch: Path) -> dict[str, list[str]]:
    """Name of a benchmark -> its script and short settings."""
    candidate = candidate_in(scratch)
    story = ["--text", *map(str, sorted((HERE.parent / "src/halfpint/measuring/data").glob("*.txt")))]
    words = ("--tokens", "30000", "--window-tokens", "64")
    return {
        "quality": ["quality_against_peers.py", *models, "--types", "Q4_K", "Q4_0", "--settings", "pure", *SHORT],
        "gptq": ["gptq_peers.py", *models, "--bits", "4", "--peers", "llm-compressor GPTQ", *SHORT],
        "ablation": ["ablation.py", *models, "--formats", "q4_0", "--seeds", "2", *SHORT],
        "size": [
            *("size_against_kl.py", *models, "--llama", "Q3_K_M", "Q4_K_M", "Q6_K", "--formats", "q4_k"),
            *("--budgets", "4", "5", "--auto-round", "--output", str(scratch / "size"), *SHORT),
        ],
        "gates": ["gates.py", *models, "--keep", "0.97", "--max-kl", "0.01", "--sizes", "6", *SHORT],
        "coverage": ["interval_coverage.py", "demo", str(candidate), *story, *words],
        "speed": ["engine_against_peers.py", str(candidate), "--cases", "quick", "--pairs", "3"],
        "kernels": ["linear_kernels.py", "--samples", "3", "--megabytes", "64"],
        "first": ["first_token.py", "--rounds", "3"],
        "soak": ["soak.py", str(candidate), "--minutes", "1", "--prompt", "100"],
        "scales": ["scale_search.py", "--groups", "16"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="which; all without")
    parser.add_argument(
        "--models", nargs="+", default=["demo"], help="`demo`, or folders in the layout of Hugging Face"
    )
    arguments = parser.parse_args()
    failed = []
    with TemporaryDirectory() as folder:
        table = commands(arguments.models, Path(folder))
        unknown = [name for name in arguments.names if name not in table]
        if unknown:
            raise SystemExit(f"no benchmark {', '.join(unknown)}; there are: {', '.join(table)}")
        for name in arguments.names or table:
            candidate = candidate_in(folder)
            if str(candidate) in table[name] and not candidate.exists():
                options = QuantizeOptions(format="q4_k", calibrate=False, measure=None)
                halfpint.quantize("demo", candidate, options)
            print(f"\n== {name}", flush=True)
            started = time.monotonic()
            script, *words = table[name]
            outcome = subprocess.run([sys.executable, str(HERE / script), *words], check=False).returncode
            print(
                f"== {name}: {'done' if outcome == 0 else f'ended with {outcome}'}, {time.monotonic() - started:.0f} s"
            )
            if outcome:
                failed.append(name)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
