"""Keys and values of the tokens seen so far, per layer, in arrays that grow by doubling."""

from __future__ import annotations

import numpy as np

from halfpint.errors import RoomError
from halfpint.families import ModelConfig
from halfpint.tensors import FloatArray

_FIRST_CAPACITY = 256


class LayerCache:
    """Keys and values of one layer: float32 [sequences, kv_heads, capacity, head_dim] each."""

    __slots__ = ("_keys", "_limit", "_values", "length")

    def __init__(self, config: ModelConfig, limit: int, sequences: int) -> None:
        shape = (sequences, config.kv_heads, min(limit, _FIRST_CAPACITY), config.head_dim)
        self._keys, self._values = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        self._limit = limit
        self.length = 0

    @property
    def nbytes(self) -> int:
        """Bytes allocated."""
        return self._keys.nbytes + self._values.nbytes

    def extend(self, keys: FloatArray, values: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Append the keys and values of new tokens.

        Parameters
        ----------
        keys, values : float32 [sequences, tokens, kv_heads, head_dim]

        Returns
        -------
        two views, float32 [sequences, kv_heads, length, head_dim]
            Of everything so far, the new tokens included.

        Raises
        ------
        RoomError
            If the context is full.
        """
        end = self.length + keys.shape[1]
        if end > self._limit:
            raise RoomError(f"the context of {self._limit} tokens is full; shorten the text")
        if end > self._keys.shape[2]:
            self._grow(end)
        self._keys[:, :, self.length : end] = keys.swapaxes(1, 2)
        self._values[:, :, self.length : end] = values.swapaxes(1, 2)
        self.length = end
        return self._keys[:, :, :end], self._values[:, :, :end]

    def _grow(self, needed: int) -> None:
        capacity = min(self._limit, max(needed, 2 * self._keys.shape[2]))
        for name in ("_keys", "_values"):
            old = getattr(self, name)
            new = np.zeros((*old.shape[:2], capacity, old.shape[3]), np.float32)
            new[:, :, : self.length] = old[:, :, : self.length]
            setattr(self, name, new)


class Cache:
    """The keys and values of a text, or of several of equal length.

    Parameters
    ----------
    config : ModelConfig
        Sizes.
    limit : int, optional
        Most tokens it may ever hold; the model's `max_positions` when 0.
    sequences : int
        Texts that advance together.
    """

    __slots__ = ("layers", "limit")

    def __init__(self, config: ModelConfig, limit: int = 0, sequences: int = 1) -> None:
        self.limit = limit or config.max_positions
        self.layers = tuple(LayerCache(config, self.limit, sequences) for _ in range(config.layers))

    @property
    def length(self) -> int:
        """Tokens held."""
        return self.layers[0].length

    @property
    def nbytes(self) -> int:
        """Bytes allocated."""
        return sum(layer.nbytes for layer in self.layers)

    def truncate(self, length: int) -> None:
        """Forget all tokens after the first `length`: to go on from a shared beginning."""
        for layer in self.layers:
            layer.length = min(layer.length, length)
