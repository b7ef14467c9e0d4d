"""Runs a target on inputs without end, each within bounds of time and memory, and keeps what breaks it.

A target is a function from bytes to nothing that may raise `HalfpintError` and nothing else. It runs in a process of
its own: two seconds of processor time or 300 MB more than at the start end the process, the parent keeps the input in
a folder of temporary files and starts another. Inputs follow from the seed alone, so that a run can be repeated.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from halfpint.errors import HalfpintError

FINDINGS = Path(tempfile.gettempdir()) / "halfpint-findings"
CPU_SECONDS = 2.0
MEGABYTES = 300
INPUTS_PER_PROCESS = 20_000

Target = Callable[[bytes], None]
Maker = Callable[[random.Random], bytes]


def main(target: Target, make: Maker) -> None:
    """Parse the command line and run: as the parent, as one of its processes, or on one kept input."""
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="how long to look for something")
    parser.add_argument("--seed", type=int, default=0, help="which inputs to make")
    parser.add_argument("--input", type=Path, help="run on this file alone, and show what happens")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.input is not None:
        target(arguments.input.read_bytes())
        return
    if arguments.worker is not None:
        _work(target, make, arguments.seed, arguments.worker, arguments.seconds)
        return
    sys.exit(_supervise(arguments.seconds, arguments.seed))


def _work(target: Target, make: Maker, seed: int, scratch: Path, seconds: float) -> None:
    """Run inputs one after the other; the one being run is always in the scratch file."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + (MEGABYTES << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    end = time.monotonic() + seconds
    refused = 0
    for number in range(INPUTS_PER_PROCESS):
        if time.monotonic() > end:
            break
        data = make(random.Random(f"{seed}/{number}"))
        scratch.write_bytes(data)
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
        try:
            target(data)
        except HalfpintError:
            refused += 1
        signal.setitimer(signal.ITIMER_PROF, 0)
    else:
        number += 1
    sys.stdout.write(f"{number} {refused}\n")


def _supervise(seconds: float, seed: int) -> int:
    """Start processes until the time is over; give the number of findings, at most 100."""
    end = time.monotonic() + seconds
    made = refused = findings = 0
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder) / "input"
        while time.monotonic() < end:
            left = str(max(end - time.monotonic(), 0.1))
            command = [sys.executable, sys.argv[0], "--seed", str(seed), "--worker", str(scratch), "--seconds", left]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode == 0:
                counts = done.stdout.split()
                made, refused = made + int(counts[-2]), refused + int(counts[-1])
            else:
                findings += 1
                _keep(scratch, done)
            seed += 1
            sys.stdout.write(f"{made} inputs, {refused} refused, {findings} findings\n")
            sys.stdout.flush()
    return min(findings, 100)


def _keep(scratch: Path, done: subprocess.CompletedProcess[str]) -> None:
    """Keep the input that ended a process, and say what happened."""
    data = scratch.read_bytes() if scratch.exists() else b""
    FINDINGS.mkdir(exist_ok=True)
    path = FINDINGS / hashlib.sha256(data).hexdigest()[:16]
    path.write_bytes(data)
    reason = "too much time" if done.returncode == -signal.SIGPROF else f"exit code {done.returncode}"
    sys.stdout.write(f"{path}: {reason}\n{done.stderr[-2000:]}\n")
