"""The other side of `process.py`: answer calls, one at a time, inside an engine's own interpreter.

    python -P serve.py <name of a module beside this file>

Every line on standard input is one call in JSON. Arrays travel in .npz files. The module named is imported
once; its table `CALLS` says what can be called. A call takes keyword arguments and returns a
dict of arrays.
"""

import importlib
import json
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

Call = Callable[..., Mapping[str, Any]]


def answer(calls: Mapping[str, Call], request: Mapping[str, Any]) -> None:
    """Do what a request asks and write what comes out where the request says."""
    with np.load(request["arrays"]) as arrays:
        arguments = {**request["options"], **arrays}
    np.savez(request["answer"], **calls[request["call"]](**arguments))


def serve(calls: Mapping[str, Call], replies: int) -> None:
    """Answer until standard input ends; a call that raises is reported, and does not end the process."""
    with os.fdopen(replies, "w", buffering=1) as output:
        for line in sys.stdin:
            try:
                answer(calls, json.loads(line))
                reply: dict[str, str | None] = {"error": None}
            except Exception:
                reply = {"error": traceback.format_exc()}
            output.write(json.dumps(reply) + "\n")


def main() -> None:
    """Keep standard output for replies, let everything that libraries print go to standard error, serve."""
    replies = os.dup(1)
    os.dup2(2, 1)
    # Last, so that nothing installed is hidden by a file of ours that has the same name.
    sys.path.append(str(Path(__file__).parent))
    serve(importlib.import_module(sys.argv[1]).CALLS, replies)


if __name__ == "__main__":
    main()
