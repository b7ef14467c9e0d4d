"""Claim: a model runs in its weights and 600 MB more, with 2048 tokens of context, and under a hard limit.

    python benchmarks/peak_memory.py llama-2-7b-Q4_K_M.gguf --context 2048 --limit-gb 6 --kv-cache q8

Loading is included. The most memory that the process held is read from the kernel (VmHWM), which counts the pages of
files too, although the system takes them away when it needs them. The limit is on private memory (RLIMIT_DATA); with
`--address-space` it is on everything that is mapped, files included (RLIMIT_AS): what does not fit fails at once.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import reporting
from halfpint.checkpoints import open_checkpoint
from speed_peers import Offer, Setting, Work, Worker, ours

MOST_OVERHEAD = 600_000_000

_LIMITED = """
import os, resource, sys
limit = int(float(sys.argv[2]) * 1e9)
resource.setrlimit(getattr(resource, sys.argv[1]), (limit, limit))
os.execv(sys.argv[3], sys.argv[3:])
"""


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Load, read nearly the whole context, write the rest; what that took."""
    kind = "RLIMIT_AS" if arguments.address_space else "RLIMIT_DATA"
    start = (sys.executable, "-c", _LIMITED, kind, str(arguments.limit_gb), *ours().start)
    with closing(open_checkpoint(arguments.model)) as checkpoint:
        weights = sum(spec.nbytes for spec in checkpoint.tensors.values())
    offer = Offer("halfpint", "", start, {"kv_cache": arguments.kv_cache})
    engine = offer.open(arguments.model, Setting(threads=arguments.threads))
    assert isinstance(engine, Worker)
    with closing(engine):
        timing = engine.run(Work(arguments.context - arguments.tokens - 1, arguments.tokens))
    return {
        "file": arguments.model.name,
        "weights GB": weights / 1e9,
        "context": arguments.context,
        "limit GB": arguments.limit_gb,
        "load s": engine.load_seconds,
        "prefill tok/s": (arguments.context - arguments.tokens - 1) / timing.prefill_seconds,
        "decode tok/s": arguments.tokens / timing.decode_seconds,
        "peak GB": engine.peak_bytes / 1e9,
        "over GB": (engine.peak_bytes - weights) / 1e9,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument("--tokens", type=int, default=32, help="of the context, so many are written")
    parser.add_argument("--limit-gb", type=float, default=6.0)
    parser.add_argument("--address-space", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--kv-cache", choices=["f16", "q8", "f32"], default="f16")
    parser.add_argument("--json", type=Path, help="where the numbers go")
    arguments = parser.parse_args()
    forms = {
        "file": "<28",
        "weights GB": ">10.3f",
        "context": ">7d",
        "limit GB": ">8.1f",
        "load s": ">6.2f",
        "prefill tok/s": ">7.1f",
        "decode tok/s": ">9.2f",
        "peak GB": ">7.3f",
        "over GB": ">7.3f",
    }
    reporting.print_setting()
    print(reporting.heading(forms))
    row = measure(arguments)
    print(reporting.line(row, forms))
    reporting.save(arguments.json, [row])
    if row["over GB"] * 1e9 > MOST_OVERHEAD:
        raise SystemExit(f"{row['over GB']:.3f} GB over the weights; the claim is {MOST_OVERHEAD / 1e9} GB")


if __name__ == "__main__":
    main()
