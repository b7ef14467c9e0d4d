"""Claim: the products with a model's weights come near the limits: memory for a few tokens, arithmetic for many.

    python benchmarks/linear_layers.py MODEL.gguf --tokens 1 4 8 32 128 512 --threads 2

All weights of the blocks are multiplied once, layer by layer, with random activations; rounding these is included, once
for weights that share their input, as in the model. Both limits are probed before and after every sample.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

import halfpint
import reporting
from halfpint.engine.weights import model_tensors, read_weight
from halfpint.families import LINEAR_ROLES, Role, read_config
from halfpint.kernels import _native, machine
from halfpint.kernels.integer_linear import Activations, IntegerLinear, multiply
from halfpint.kernels.probe import Probe

FORMS = {
    "tokens": ">6d",
    "ms": ">9.3f",
    "lowest": ">9.3f",
    "highest": ">9.3f",
    "Gop/s": ">8.1f",
    "of peak": ">8.3f",
    "GB/s": ">7.2f",
    "of memory": ">9.3f",
}
FIRST_OF_SHARED = frozenset(
    {
        Role.ATTENTION_Q,
        Role.ATTENTION_QKV,
        Role.ATTENTION_OUTPUT,
        Role.MLP_GATE,
        Role.MLP_GATE_UP,
        Role.MLP_DOWN,
        Role.EXPERT_GATE,
        Role.EXPERT_DOWN,
    }
)
"""Roles whose input is new; the others take that of the weight before them."""
KEPT_BYTES = 64 << 20
"""As a decoder keeps it (`halfpint.engine.decoder`), so that outputs are no new pages."""


class Weights:
    """All weights of the blocks, as generation keeps them."""

    def __init__(self, model: str) -> None:
        with closing(halfpint.open_model(model)) as checkpoint:
            config = read_config(checkpoint.config)
            chosen = [tensor for tensor in model_tensors(config) if tensor.role in LINEAR_ROLES]
            self.groups: list[list[IntegerLinear]] = []
            for tensor in chosen:
                if tensor.role in FIRST_OF_SHARED:
                    self.groups.append([])
                self.groups[-1].append(IntegerLinear(read_weight(checkpoint, tensor)))
            self.nbytes = sum(checkpoint.tensors[tensor.name].nbytes for tensor in chosen)
        self.operations = sum(2 * linear.shape[0] * linear.shape[1] for group in self.groups for linear in group)

    def multiply(self, inputs: dict[int, np.ndarray]) -> float:
        """Multiply all once; seconds."""
        started = time.perf_counter()
        for group in self.groups:
            multiply(group, Activations(inputs[group[0].shape[1]]))
        return time.perf_counter() - started


def rows(weights: Weights, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Every number of tokens in turn."""
    generator = np.random.default_rng(0)
    probe = Probe(weights.nbytes)
    columns = {group[0].shape[1] for group in weights.groups}
    for tokens in arguments.tokens:
        inputs = {width: generator.standard_normal((tokens, width), dtype=np.float32) for width in columns}
        weights.multiply(inputs)
        seconds, peaks, reads = [], [], []
        before = probe.measure()
        for _ in range(arguments.repeats):
            seconds.append(weights.multiply(inputs))
            after = probe.measure()
            peaks.append(tokens * weights.operations / seconds[-1] / (before.integer_peak + after.integer_peak) * 2)
            reads.append(weights.nbytes / seconds[-1] / (before.read_bandwidth + after.read_bandwidth) * 2)
            before = after
        middle = statistics.median(seconds)
        yield {
            "tokens": tokens,
            "ms": 1e3 * middle,
            "lowest": 1e3 * min(seconds),
            "highest": 1e3 * max(seconds),
            "Gop/s": tokens * weights.operations / middle / 1e9,
            "of peak": statistics.median(peaks),
            "GB/s": weights.nbytes / middle / 1e9,
            "of memory": statistics.median(reads),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--tokens", nargs="+", type=int, default=[1, 2, 4, 8, 16, 32, 64, 128, 512])
    parser.add_argument("--threads", type=int, default=machine.thread_count())
    parser.add_argument("--isa", default="", help="force an instruction set")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path, help="where the numbers go")
    arguments = parser.parse_args()
    machine.set_thread_count(arguments.threads)
    if arguments.isa and not _native.force_isa(arguments.isa):
        raise SystemExit(f"this processor has no {arguments.isa}")
    reporting.print_setting()
    machine.keep_freed_memory(KEPT_BYTES)
    started = time.perf_counter()
    weights = Weights(arguments.model)
    count = sum(map(len, weights.groups))
    print(f"{count} weights, {weights.nbytes} bytes, packed in {time.perf_counter() - started:.2f} s")
    print(reporting.heading(FORMS))
    measured = []
    for row in rows(weights, arguments):
        measured.append(row)
        print(reporting.line(row, FORMS), flush=True)
        reporting.save(arguments.json, measured)


if __name__ == "__main__":
    main()
