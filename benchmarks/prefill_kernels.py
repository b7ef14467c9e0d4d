"""Products of many tokens with packed weights: operations a second, beside the peak of 8-bit integer products.

Each sample multiplies one matrix with new activations (rounding them is part of the time, unless `--shared`), between
two measurements of the peak on the same threads; the share is of the mean of both. Shapes and formats take turns. Run
it on a quiet machine:

    python benchmarks/prefill_kernels.py --formats q4_k,q4_0,iq4_xs,q6_k,q8_0 --threads 1,2
"""

from __future__ import annotations

import argparse
import itertools
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

SHAPES = "2048x2048,5632x2048,2048x5632,4096x11008"
ENCODED_ROWS = 64


@dataclass(frozen=True, slots=True)
class Sample:
    """One product.

    Attributes
    ----------
    operations_per_second : float
        Multiplications and additions counted apart.
    share : float
        Of the peak measured before and after.
    """

    operations_per_second: float
    share: float


def weight(name: str, rows: int, columns: int) -> IntegerLinear:
    """Random weights of normal distribution; a few rows, repeated."""
    fmt = formats.by_name(name)
    values = np.random.default_rng(0).standard_normal((ENCODED_ROWS, columns)).astype(np.float32)
    few = formats.encode(values * np.float32(0.02), fmt)
    parts = {
        part: np.ascontiguousarray(np.concatenate([array] * (rows // ENCODED_ROWS)))
        if len(array) == ENCODED_ROWS
        else array
        for part, array in few.parts.items()
    }
    return IntegerLinear(QuantizedTensor(fmt, (rows, columns), parts))


def sample(matrix: IntegerLinear, x: np.ndarray[Any, Any], shared: bool, repeats: int) -> Sample:
    """Multiply between two measurements of the peak."""
    activations = Activations(x)
    if shared:
        matrix.forward(activations)
    before = _native.integer_peak(1)
    started = time.perf_counter()
    for _ in range(repeats):
        matrix.forward(activations if shared else Activations(x))
    seconds = (time.perf_counter() - started) / repeats
    after = _native.integer_peak(1)
    speed = 2 * len(x) * matrix.shape[0] * matrix.shape[1] / seconds
    return Sample(speed, speed / ((before + after) / 2))


def row(key: tuple[str, str, int, int], samples: list[Sample]) -> dict[str, Any]:
    """Medians and spread of what was measured of one format, shape, and numbers of threads and tokens."""
    shares = sorted(one.share for one in samples)
    name, shape, threads, tokens = key
    return {
        "format": name,
        "shape": shape,
        "threads": threads,
        "tokens": tokens,
        "gigaoperations_per_second": statistics.median(one.operations_per_second for one in samples) / 1e9,
        "arithmetic_share": statistics.median(shares),
        "lowest_share": shares[0],
        "highest_share": shares[-1],
    }


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Take all samples in turns."""
    samples: dict[tuple[str, str, int, int], list[Sample]] = {}
    for shape, name in itertools.product(options.shapes.split(","), options.formats.split(",")):
        rows, columns = (int(size) for size in shape.split("x"))
        matrix = weight(name, rows, columns)
        for _ in range(options.samples):
            for threads, tokens in itertools.product(options.threads.split(","), options.tokens.split(",")):
                machine.set_thread_count(int(threads))
                x = np.random.default_rng(1).standard_normal((int(tokens), columns)).astype(np.float32)
                taken = sample(matrix, x, options.shared, options.repeats)
                samples.setdefault((name, shape, int(threads), int(tokens)), []).append(taken)
    return [row(key, taken) for key, taken in samples.items()]


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--formats", default="q4_k,q4_0,iq4_xs,q6_k,q8_0")
    parser.add_argument("--shapes", default=SHAPES, help="rows x columns of weights")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--tokens", default="512")
    parser.add_argument("--samples", type=int, default=7)
    parser.add_argument("--repeats", type=int, default=1, help="products of a sample")
    parser.add_argument("--shared", action="store_true", help="activations are rounded before, as for q, k and v")
    parser.add_argument("--isa", help="force an instruction set")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.isa and not _native.force_isa(options.isa):
        parser.error(f"this processor has no {options.isa}")
    print_setting()
    print(f"{_native.integer_isa()} kernels")
    rows = measure(options)
    print(f"{'format':<10}{'shape':<12}{'threads':>8}{'tokens':>8}{'Gop/s':>8}{'share':>8}   spread")
    for one in rows:
        print(
            f"{one['format']:<10}{one['shape']:<12}{one['threads']:>8}{one['tokens']:>8}"
            f"{one['gigaoperations_per_second']:>8.0f}{one['arithmetic_share']:>8.0%}"
            f"   {one['lowest_share']:.0%} to {one['highest_share']:.0%}"
        )
    save(options.json, rows)


if __name__ == "__main__":
    main()
