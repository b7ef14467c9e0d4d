"""From float32 to blocks."""

from __future__ import annotations

from collections.abc import Mapping

from halfpint.errors import UnsupportedError
from halfpint.formats.ggml.blocks import GgmlBlocks
from halfpint.tensors import Array, FloatArray


def encode(weight: FloatArray, fmt: GgmlBlocks, importance: Array | None) -> Mapping[str, Array]:  # noqa: ARG001
    """Not yet."""
    raise UnsupportedError(f"{fmt.name} is not written yet")
