"""The side of a benchmark of speed that loads a model: reads requests as JSON lines, answers each with its times.

A worker is a script beside this one, run by the interpreter of its engine, that calls `serve` with a function that
loads the model. Only the standard library is needed here.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True)
class Work:
    """What one sample is: prompts of random tokens are read, then so many steps follow, each of one token a sequence.

    The first new token of every sequence comes from reading its prompt; a step is what the next takes.
    """

    prompt: int
    tokens: int
    sequences: int = 1
    seed: int = 0

    def prompts(self, vocabulary: int) -> list[list[int]]:
        """Token ids of each sequence: the same for every engine, without any library for random numbers."""
        state = 2 * self.seed + 1
        rows = []
        for _ in range(self.sequences):
            row = []
            for _ in range(self.prompt):
                # Knuth's 64-bit linear congruential generator (MMIX).
                state = (6364136223846793005 * state + 1442695040888963407) % 2**64
                row.append((state >> 33) % vocabulary)
            rows.append(row)
        return rows


@dataclass(frozen=True)
class Timing:
    """Seconds of reading all prompts and of all steps, and the new tokens of each sequence.

    `processor_seconds` are those that processors spent on both; empty where an engine does not tell them apart.
    """

    prefill_seconds: float
    decode_seconds: float
    ids: list[list[int]]
    processor_seconds: tuple[float, float] | tuple[()] = ()


class Ready(Protocol):
    """A loaded model.

    Attributes
    ----------
    version : str
        Of the engine, and of what it stands on.
    """

    version: str

    def run(self, work: Work) -> Timing:
        """Do one sample."""
        ...


def peak_bytes() -> int:
    """Most memory that this program held; that of the program which started it is not counted."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    return 0


def serve(load: Callable[[dict[str, Any]], Ready]) -> None:
    """Load a model as the first line says, and then answer every line until standard input ends."""
    # Engines print what they like: answers have a file of their own.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    ready: Ready | None = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if ready is None:
                os.sched_setaffinity(0, request.pop("processors"))
                started = time.perf_counter()
                ready = load(request)
                answer = {"load_seconds": time.perf_counter() - started, "version": ready.version}
            else:
                timing = ready.run(Work(**request))
                answer = {**vars(timing), "peak_bytes": peak_bytes()}
        except Exception:
            answer = {"error": traceback.format_exc()[-3000:]}
        answers.write(json.dumps(answer) + "\n")
