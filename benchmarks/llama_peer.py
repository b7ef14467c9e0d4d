"""llama.cpp's own quantizer as a peer: an importance matrix of the same text, its file types, and what it wrote.

Needs the engine that `python tests/engines/install.py llama_cpp` installs.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import halfpint
from halfpint.calibration.text import Window, batches
from halfpint.checkpoints.gguf_names import places
from halfpint.engine.block import load_block
from halfpint.engine.decoder import load_ends
from halfpint.engine.steps import Products, perform
from halfpint.families import read_config
from halfpint.pipeline.options import QuantizeOptions
from halfpint.tensors import FloatArray

sys.path.append(str(Path(__file__).parents[1] / "tests"))

from engines.environment import llama_cpp_libraries
from engines.llama_cpp import LlamaCpp
from engines.llama_library import FILE_TYPES

__all__ = ["FILE_TYPES", "LlamaCpp", "engine", "importance", "plain_gguf", "rules_like"]

PURE_FILE_TYPES = {"Q2_K": "Q2_K", "Q3_K": "Q3_K_S", "Q4_K": "Q4_K_S", "Q5_K": "Q5_K_S"}
"""File type whose pure form has every matrix in a block type, where the two have different names."""

MIXED_FILE_TYPES = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}
"""The file type that llama.cpp's users take for a block type, where the two have different names."""


def engine(threads: int) -> LlamaCpp:
    """llama.cpp in a process of its own; close it, or use it in a `with`."""
    return LlamaCpp(llama_cpp_libraries(), threads=threads)


def importance(model: str | Path, windows: list[Window]) -> dict[str, NDArray[np.float32]]:
    """Mean square of every input of every matrix of the blocks, by GGUF name, as llama.cpp's imatrix tool gathers it.

    Like that tool it has nothing for the embedding, which is looked up and not multiplied, and nothing for the output
    matrix, which it leaves out unless told otherwise.
    """
    checkpoint = halfpint.open_model(model)
    sums: dict[str, NDArray[np.float64]] = {}
    counts: dict[str, int] = {}

    def gather(request: Products) -> Sequence[FloatArray]:
        squares = np.square(request.x, dtype=np.float64).sum(axis=0)
        for projection in request.projections:
            sums[projection.name] = sums.get(projection.name, 0) + squares
            counts[projection.name] = counts.get(projection.name, 0) + len(request.x)
        return perform(request)

    try:
        config = read_config(checkpoint.config)
        ends = load_ends(checkpoint, config)
        hidden = [ends.embed(batch.ids) for batch in batches(windows)]
        for layer in range(config.layers):
            block = load_block(checkpoint, config, layer)
            hidden = [block.forward(state, perform=gather) for state in hidden]
        names = places(checkpoint.config)
        return {names[name].gguf_name: (sums[name] / counts[name]).astype(np.float32) for name in sums}
    finally:
        checkpoint.close()


def plain_gguf(model: str | Path, folder: Path) -> Path:
    """The model in float32, the source of llama.cpp's quantizer; made once a folder."""
    target = folder / "f32.gguf"
    if not target.exists():
        halfpint.quantize(model, target, QuantizeOptions(format="f32", rules=("*=f32",), measure=None))
    return target


def rules_like(formats: dict[str, str]) -> tuple[str, ...]:
    """Rules that give each matrix the format that another file has for it: as many bytes, tensor by tensor."""
    return tuple(f"{name}={fmt.lower()}" for name, fmt in formats.items())
