"""llama.cpp as a worker of the benchmarks of speed: its shared libraries, driven as its own programs drive them.

Options: `repack` (reorder weights for faster kernels), `flash` (attention without scores in memory), `isa` ("" for
the best backend, or the name of one of those beside the libraries, such as "haswell" for AVX2).
"""

from __future__ import annotations

import ctypes
import sys
import tempfile
import time
from ctypes import POINTER, c_bool, c_float, c_int8, c_int32, c_void_p
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from speed_serving import Ready, Timing, Work, serve

sys.path.append(str(Path(__file__).parents[2] / "tests" / "engines"))

from llama_library import COMMIT, Batch, LibraryError, open_library

CHUNK = 512
_FLASH = {True: 1, False: 0}


def backends(folder: Path, isa: str) -> Path:
    """The folder with the backend to load: all of them, of which the best is taken, or one alone."""
    if not isa:
        return folder
    alone = Path(tempfile.mkdtemp(prefix="halfpint-backend-"))
    for name in ("libggml-base.so", f"libggml-cpu-{isa}.so"):
        (alone / name).symlink_to(folder / name)
    return alone


class Model:
    """A loaded model, and one context that is emptied before every sample."""

    version = f"ggml {COMMIT}"

    def __init__(self, options: dict[str, Any]) -> None:
        folder = Path(options["libraries"])
        self.llama = open_library(folder, backends(folder, options["isa"])).llama
        declare(self.llama)
        parameters = self.llama.llama_model_default_params()
        parameters.use_extra_buffers = options["repack"]
        self.options = options
        self.model = self.llama.llama_model_load_from_file(options["model"].encode(), parameters)
        if not self.model:
            raise LibraryError(f"llama.cpp does not load {options['model']}")
        self.vocabulary = int(self.llama.llama_vocab_n_tokens(self.llama.llama_model_get_vocab(self.model)))
        self.context: tuple[int, int, int] | None = None

    def ready_for(self, work: Work) -> int:
        """A context with room for the work, empty."""
        room = -(-(work.prompt + work.tokens + 1) // 256) * 256
        if self.context is None or self.context[1:] != (room, work.sequences):
            if self.context is not None:
                self.llama.llama_free(self.context[0])
            self.context = self.make_context(room, work.sequences), room, work.sequences
        context = self.context[0]
        self.llama.llama_memory_clear(self.llama.llama_get_memory(context), True)
        return context

    def make_context(self, room: int, sequences: int) -> int:
        """A context for sequences of equal length."""
        parameters = self.llama.llama_context_default_params()
        parameters.context_tokens = room * sequences
        parameters.sequences = sequences
        parameters.batch_tokens = parameters.microbatch_tokens = CHUNK
        parameters.outputs, parameters.outputs_per_sequence = sequences, 1
        parameters.threads = parameters.threads_batch = self.options["threads"]
        parameters.flash_attention = _FLASH[self.options["flash"]]
        parameters.no_timings = True
        context = self.llama.llama_init_from_model(self.model, parameters)
        if not context:
            raise LibraryError("llama.cpp does not make a context")
        return int(context)

    def run(self, work: Work) -> Timing:
        """Read prompts and continue them by the likeliest tokens."""
        context = self.ready_for(work)
        prompts = work.prompts(self.vocabulary)
        started, begun = time.perf_counter(), time.process_time()
        newest = [self.read(context, np.array(prompt, np.int32), row) for row, prompt in enumerate(prompts)]
        read, middle = time.perf_counter(), time.process_time()
        ids = [newest]
        rows = np.arange(work.sequences, dtype=np.int32)
        for step in range(work.tokens):
            positions = np.full(work.sequences, work.prompt + step, np.int32)
            self.decode(context, np.array(ids[-1], np.int32), positions, rows, every=True)
            ids.append([self.likeliest(context, row) for row in range(work.sequences)])
        spent = middle - begun, time.process_time() - middle
        ended = time.perf_counter()
        return Timing(read - started, ended - read, [list(row) for row in zip(*ids, strict=True)], spent)

    def read(self, context: int, prompt: NDArray[np.int32], row: int) -> int:
        """Read the prompt of one sequence; the likeliest token after it."""
        for start in range(0, prompt.size, CHUNK):
            piece = prompt[start : start + CHUNK]
            positions = np.arange(start, start + piece.size, dtype=np.int32)
            self.decode(context, piece, positions, np.full(piece.size, row, np.int32), every=False)
        return self.likeliest(context, -1)

    def decode(
        self,
        context: int,
        tokens: NDArray[np.int32],
        positions: NDArray[np.int32],
        rows: NDArray[np.int32],
        *,
        every: bool,
    ) -> None:
        """Run some tokens; every one, or only the last, gets logits."""
        ones = np.ones(tokens.size, np.int32)
        wants = np.full(tokens.size, every, np.int8)
        wants[-1] = 1
        # Each token belongs to one sequence: a pointer to the number of it.
        pointers = rows.ctypes.data + np.arange(tokens.size, dtype=np.uint64) * 4
        batch = Batch(
            count=tokens.size,
            tokens=tokens.ctypes.data_as(POINTER(c_int32)),
            positions=positions.ctypes.data,
            sequence_counts=ones.ctypes.data,
            sequences=pointers.ctypes.data,
            wants_logits=wants.ctypes.data_as(POINTER(c_int8)),
        )
        status = self.llama.llama_decode(context, batch)
        if status:
            raise LibraryError(f"llama_decode returned {status}")

    def likeliest(self, context: int, row: int) -> int:
        """The token with the largest logit of an output."""
        logits = np.ctypeslib.as_array(self.llama.llama_get_logits_ith(context, row), shape=(self.vocabulary,))
        return int(logits.argmax())


def declare(llama: ctypes.CDLL) -> None:
    """Say the types of functions that the tests do not need."""
    llama.llama_get_memory.restype, llama.llama_get_memory.argtypes = c_void_p, (c_void_p,)
    llama.llama_memory_clear.restype, llama.llama_memory_clear.argtypes = None, (c_void_p, c_bool)
    llama.llama_get_logits_ith.restype = POINTER(c_float)
    llama.llama_get_logits_ith.argtypes = (c_void_p, c_int32)


def load(options: dict[str, Any]) -> Ready:
    """Load the model that the benchmark names."""
    return Model(options)


if __name__ == "__main__":
    serve(load)
