"""Claim: the first token of a prompt of 20 tokens on the demo model comes within half a second of pressing return.

    python benchmarks/first_token.py --rounds 15

The whole process is timed, from the shell's point of view: the interpreter, the imports, loading the model, reading
the prompt, and the first piece of new text on standard output. The files are in the page cache after the first round,
which is not counted.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import halfpint
import reporting
from halfpint.tokenization import load_tokenizer

PROMPT = "The old house stood at the end of the lane, and nobody in it would ever"


def prompt_tokens(model: str) -> int:
    """How many tokens the prompt has."""
    checkpoint = halfpint.open_model(model)
    try:
        return len(load_tokenizer(checkpoint).encode(PROMPT))
    finally:
        checkpoint.close()


def once(command: list[str]) -> tuple[float, float]:
    """Seconds to the first new text, and to the end of the process."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    shown, first = b"", 0.0
    while piece := os.read(process.stdout.fileno(), 65536):
        shown += piece
        # The prompt is shown at once; what comes after it is new.
        if not first and len(shown.strip()) > len(PROMPT):
            first = time.perf_counter() - started
    _, said = process.communicate()
    if process.returncode or not first:
        raise SystemExit(f"{' '.join(command)}\n{said.decode()}")
    return first, time.perf_counter() - started


def measure(model: str, rounds: int, threads: int) -> dict[str, Any]:
    """Medians and spread of some rounds."""
    program = [sys.executable, "-m", "halfpint", "generate", model, PROMPT]
    command = [*program, "--max-tokens", "2", "--temperature", "0", "--threads", str(threads)]
    once(command)
    firsts, wholes = zip(*(once(command) for _ in range(rounds)), strict=True)
    return {
        "model": Path(model).name,
        "prompt tokens": prompt_tokens(model),
        "first s": statistics.median(firsts),
        "lowest": min(firsts),
        "highest": max(firsts),
        "process s": statistics.median(wholes),
        "samples": firsts,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--json", type=Path, help="where the numbers go")
    arguments = parser.parse_args()
    forms = {
        "model": "<20",
        "prompt tokens": ">13d",
        "first s": ">8.3f",
        "lowest": ">8.3f",
        "highest": ">8.3f",
        "process s": ">9.3f",
    }
    reporting.print_setting()
    print(reporting.heading(forms))
    row = measure(arguments.model, arguments.rounds, arguments.threads)
    print(reporting.line(row, forms))
    reporting.save(arguments.json, [row])


if __name__ == "__main__":
    main()
