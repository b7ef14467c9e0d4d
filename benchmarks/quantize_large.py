"""Claim: a model far larger than memory allows is quantized under a hard cap, no slower than llama.cpp does it.

    python benchmarks/shapes.py llama-2-7b /somewhere/7b
    python benchmarks/quantize_large.py /somewhere/7b /somewhere/scratch --rounds 3

Each job runs in a process of its own whose private memory is limited by the kernel (RLIMIT_DATA, 1 GB); the most
that it ever held is read from the kernel too. llama.cpp quantizes the same weights from a bf16 GGUF file that is made
first; the two alternate, and the ratio of each pair is printed. Needs `make engines` for llama.cpp.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
LIMIT_BYTES = 1_000_000_000

_LIMIT = """
import os, resource, sys
limit = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
os.execv(sys.argv[2], sys.argv[2:])
"""

_LLAMA = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from engines.environment import llama_cpp_libraries
from engines.llama_cpp import LlamaCpp
with LlamaCpp(llama_cpp_libraries(), threads=int(sys.argv[5])) as engine:
    engine.quantize_file(Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])
"""


@dataclass(frozen=True)
class Run:
    """One finished process: wall seconds and the most memory it (or its child) held."""

    seconds: float
    peak_bytes: int


def run(command: list[str], limited: bool) -> Run:
    """Run a command, its private memory limited or not."""
    if limited:
        command = [sys.executable, "-c", _LIMIT, str(LIMIT_BYTES), *command]
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command[-6:])} ... ended with {process.returncode}")
    return Run(time.monotonic() - started, usage.ru_maxrss * 1024)


def halfpint(model: Path, output: Path, threads: int, *options: str) -> Run:
    """Quantize with halfpint under the cap; the output is removed."""
    command = [sys.executable, "-m", "halfpint", "quantize", str(model), str(output), "--no-measure"]
    outcome = run([*command, "--threads", str(threads), *options], limited=True)
    size = output.stat().st_size if output.is_file() else sum(f.stat().st_size for f in output.iterdir())
    print(f"  halfpint {' '.join(options)}: {outcome.seconds:.0f} s, {outcome.peak_bytes / 1e9:.2f} GB, {size} bytes")
    return outcome


def remove(path: Path) -> None:
    """Delete an output of either kind."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", type=Path)
    parser.add_argument("scratch", type=Path)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peer-type", default="Q4_K_M")
    parser.add_argument("--keep", action="store_true", help="keep llama.cpp's last file in SCRATCH")
    arguments = parser.parse_args()
    arguments.scratch.mkdir(parents=True, exist_ok=True)
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} CPUs, {arguments.threads} threads")
    folder = arguments.scratch / "int4"
    halfpint(arguments.model, folder, arguments.threads, "--bits", "4", "--to", "compressed-tensors")
    remove(folder)
    plain = arguments.scratch / "bf16.gguf"
    if not plain.exists():
        halfpint(arguments.model, plain, arguments.threads, "--format", "bf16", "--to", "gguf")
    output = arguments.scratch / "out.gguf"
    ratios = []
    for _ in range(arguments.rounds):
        ours = [
            halfpint(arguments.model, output, arguments.threads, *options, "--to", "gguf")
            for options in (("--bits", "4"), ("--format", "q4_k"))
            if not remove(output)
        ]
        remove(output)
        command = [sys.executable, "-c", _LLAMA, str(ROOT / "tests"), str(plain), str(output)]
        theirs = run([*command, arguments.peer_type, str(arguments.threads)], limited=False)
        if arguments.keep:
            output.replace(arguments.scratch / f"{arguments.peer_type}.gguf")
        remove(output)
        print(f"  llama.cpp {arguments.peer_type}: {theirs.seconds:.0f} s, {theirs.peak_bytes / 1e9:.2f} GB")
        ratios.append([theirs.seconds / mine.seconds for mine in ours])
    medians = [statistics.median(column) for column in zip(*ratios, strict=True)]
    print(json.dumps({"llama.cpp seconds / ours": dict(zip(("bits 4", "q4_k"), medians, strict=True))}))


if __name__ == "__main__":
    main()
