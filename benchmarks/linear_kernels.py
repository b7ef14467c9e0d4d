"""Products of one token with packed weights: bytes of weights a second, beside what reading memory gives.

Each sample multiplies once with every matrix of a set larger than the caches; memory is read before and after it, with
the same threads, and the share is of the mean of both. Formats take turns, so that a machine whose memory changes speed
is the same for all. Run it on a quiet machine:

    python benchmarks/linear_kernels.py --formats q4_k,q4_0,iq4_xs,q8_0,q6_k --threads 1,2
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from halfpint import formats
from halfpint.kernels import _native, machine
from halfpint.kernels.integer_linear import Activations, IntegerLinear
from halfpint.tensors import QuantizedTensor
from reporting import print_setting, save

ROWS, COLUMNS = 4096, 4096
PROBE_BYTES = 384 * 2**20


@dataclass(frozen=True, slots=True)
class Sample:
    """One pass over a set of matrices.

    Attributes
    ----------
    bytes_per_second : float
        Of weights, scales included.
    share : float
        Of the bandwidth read before and after.
    """

    bytes_per_second: float
    share: float


def weights(name: str, megabytes: int) -> list[IntegerLinear]:
    """As many matrices of random weights as fill the size; copies of one, each with memory of its own."""
    fmt = formats.by_name(name)
    rng = np.random.default_rng(0)
    values = rng.standard_normal((64, COLUMNS)).astype(np.float32) * np.float32(0.02)
    few = formats.encode(values, fmt)
    parts = {
        part: np.ascontiguousarray(np.concatenate([array] * (ROWS // 64))) if len(array) == 64 else array
        for part, array in few.parts.items()
    }
    tensor = QuantizedTensor(fmt, (ROWS, COLUMNS), parts)
    first = IntegerLinear(tensor)
    count = max(1, megabytes * 2**20 // first.nbytes)
    return [first, *(IntegerLinear(tensor) for _ in range(count - 1))]


def sample(matrices: list[IntegerLinear], tokens: int, memory: np.ndarray[Any, Any]) -> Sample:
    """Multiply with all matrices once, between two readings of memory."""
    x = np.random.default_rng(1).standard_normal((tokens, COLUMNS)).astype(np.float32)
    activations = Activations(x)
    before = _native.read_bandwidth(memory, 1)
    started = time.perf_counter()
    for matrix in matrices:
        matrix.forward(activations)
    seconds = time.perf_counter() - started
    after = _native.read_bandwidth(memory, 1)
    speed = sum(matrix.nbytes for matrix in matrices) / seconds
    return Sample(speed, speed / ((before + after) / 2))


def row(name: str, threads: int, tokens: int, samples: list[Sample]) -> dict[str, Any]:
    """Medians and spread of a format's samples."""
    shares = sorted(one.share for one in samples)
    return {
        "format": name,
        "threads": threads,
        "tokens": tokens,
        "gigabytes_per_second": statistics.median(one.bytes_per_second for one in samples) / 1e9,
        "bandwidth_share": statistics.median(shares),
        "lowest_share": shares[0],
        "highest_share": shares[-1],
    }


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--formats", default="q4_k,q4_0,iq4_xs,q8_0,q6_k")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--tokens", default="1")
    parser.add_argument("--megabytes", type=int, default=512, help="of weights that each sample reads")
    parser.add_argument("--samples", type=int, default=7)
    parser.add_argument("--isa", help="force an instruction set")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.isa and not _native.force_isa(options.isa):
        parser.error(f"this processor has no {options.isa}")
    print_setting()
    print(f"{_native.integer_isa()} kernels")
    names = options.formats.split(",")
    sets = {name: weights(name, options.megabytes) for name in names}
    memory = np.ones(PROBE_BYTES // 8, np.uint64)
    cells = [
        (int(threads), int(tokens)) for threads in options.threads.split(",") for tokens in options.tokens.split(",")
    ]
    samples: dict[tuple[str, int, int], list[Sample]] = {}
    for _ in range(options.samples):
        for threads, tokens in cells:
            machine.set_thread_count(threads)
            for name in names:
                samples.setdefault((name, threads, tokens), []).append(sample(sets[name], tokens, memory))
    rows = [row(*key, taken) for key, taken in samples.items()]
    print(f"{'format':<10}{'threads':>8}{'tokens':>8}{'GB/s':>8}{'share':>8}   spread")
    for one in rows:
        print(
            f"{one['format']:<10}{one['threads']:>8}{one['tokens']:>8}{one['gigabytes_per_second']:>8.1f}"
            f"{one['bandwidth_share']:>8.0%}   {one['lowest_share']:.0%} to {one['highest_share']:.0%}"
        )
    save(options.json, rows)


if __name__ == "__main__":
    main()
