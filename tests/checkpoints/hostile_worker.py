"""Open every file of a folder under the limits that hostile input must not break, one JSON line each.

A case that takes more than two seconds of processor time, or more memory than allowed, ends the process.
"""

import json
import resource
import signal
import sys
from pathlib import Path

import numpy as np

from halfpint.checkpoints import open_checkpoint
from halfpint.errors import HalfpintError
from halfpint.tokenization import load_tokenizer

SECONDS = 2.0
MEGABYTES = 200


def limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + (MEGABYTES << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def provoke(path: Path) -> None:
    """Do with a checkpoint what any command may do with it."""
    checkpoint = open_checkpoint(path)
    try:
        for name, spec in checkpoint.tensors.items():
            checkpoint.read(name, 0, min(1, spec.shape[0] if spec.shape else 1))
        load_tokenizer(checkpoint).encode("Once upon a time 😀 <0x0A>")
    finally:
        checkpoint.close()


def main() -> None:
    np.zeros(1)
    limit_memory()
    for path in sorted(Path(sys.argv[1]).iterdir()):
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        try:
            provoke(path)
            error = ""
            text = ""
        except HalfpintError as caught:
            error, text = type(caught).__name__, str(caught)
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(json.dumps({"name": path.name, "error": error, "text": text}), flush=True)


if __name__ == "__main__":
    main()
