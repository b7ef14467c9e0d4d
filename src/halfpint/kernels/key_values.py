"""Keys and values of one text in one layer, and attention over them, in native code.

`KeyValues.attend` reads them once and never holds all scores; `halfpint.engine.attention.attend` is the truth that it
is tested against. The result for a token depends on that token and what came before it only: not on the number of
threads, nor on how many tokens come together.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from halfpint.errors import UsageError
from halfpint.kernels import _native
from halfpint.tensors import Array, FloatArray

CACHE_KINDS: Mapping[str, str] = MappingProxyType(
    {
        "f16": "16-bit floats",
        "q8": "8-bit codes with a scale for each head's vector; keys are turned by a Hadamard matrix first",
        "f32": "32-bit floats",
    }
)
"""How keys and values can be kept."""

POSITIONS_PER_PAGE = 256
"""Memory is taken for so many positions at a time (kPagePositions in native/isa/attention.hpp)."""


class KeyValues:
    """Keys and values of the tokens of a text so far.

    Parameters
    ----------
    kind : str
        A key of `CACHE_KINDS`. In `f16`, what is too large for a half becomes the largest half, 65504.
    kv_heads, head_dim : int
        Sizes.

    Raises
    ------
    UsageError
        If there is no such kind.
    """

    __slots__ = ("_handle", "head_dim", "kv_heads")

    def __init__(self, kind: str, kv_heads: int, head_dim: int) -> None:
        if kind not in CACHE_KINDS:
            raise UsageError(f"no cache of kind {kind!r}; there are: {', '.join(CACHE_KINDS)}")
        self._handle = _native.KeyValues(kind, kv_heads, head_dim)
        self.kv_heads, self.head_dim = kv_heads, head_dim

    @property
    def handle(self) -> _native.KeyValues:
        """What native code works on."""
        return self._handle

    @property
    def length(self) -> int:
        """Positions held."""
        return self._handle.length

    @property
    def nbytes(self) -> int:
        """Bytes taken, in whole pages."""
        return self._handle.nbytes

    def append(self, keys: FloatArray, values: FloatArray) -> None:
        """Append new tokens: float32 [tokens, kv_heads * head_dim] each, contiguous."""
        self._handle.append(keys, values)

    def attend(self, queries: FloatArray, *, scale: float, window: int, cap: float) -> FloatArray:
        """Attention of the last tokens to all up to themselves.

        Parameters
        ----------
        queries : float32 [tokens, heads * head_dim], contiguous
            Of the last positions held; `heads / kv_heads` of them share a key.
        scale, window, cap
            As for `halfpint.engine.attention.attend`.

        Returns
        -------
        float32, the same shape
            With the keys and values as they are held, each weight of the softmax is within a share of
            (head_dim + 16) * 2**-23 * (|q| |k| scale) + 2**-20 of the true one.
        """
        out = np.empty_like(queries)
        self._handle.attend(queries, scale, window, cap, out)
        return out

    def truncate(self, length: int) -> None:
        """Forget all positions after the first `length`; their memory is kept for others."""
        self._handle.truncate(length)

    def read(self) -> tuple[FloatArray, FloatArray]:
        """Give keys and values as they are held: float32 [kv_heads, length, head_dim] each."""
        shape = (self.length, self.kv_heads * self.head_dim)
        keys, values = np.empty(shape, np.float32), np.empty(shape, np.float32)
        self._handle.read(0, keys, values)
        split = (self.length, self.kv_heads, self.head_dim)
        return keys.reshape(split).swapaxes(0, 1), values.reshape(split).swapaxes(0, 1)

    def stored_bytes(self, length: int) -> int:
        """Size of what `save` gives when so many positions are held."""
        return self._handle.stored_bytes(length)

    def save(self) -> Array:
        """Copy the pages out: uint8 [stored_bytes(length)], the same on every processor of this byte order."""
        out = np.empty(self.stored_bytes(self.length), np.uint8)
        self._handle.save(out)
        return out

    def restore(self, pages: Array, length: int) -> None:
        """Hold what another of the same kind and sizes saved; `pages` are uint8 [stored_bytes(length)]."""
        self._handle.restore(pages, length)
