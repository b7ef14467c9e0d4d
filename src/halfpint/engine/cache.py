"""What a text has left behind in every layer, and where the tokens of a pass stand in their texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from halfpint.engine.rotation import rotation
from halfpint.errors import RoomError
from halfpint.families import ModelConfig, Rope
from halfpint.kernels.key_values import KeyValues
from halfpint.tensors import FloatArray


class Cache:
    """The keys and values of a text.

    Parameters
    ----------
    config : ModelConfig
        Sizes.
    limit : int, optional
        Most tokens it may ever hold; the model's `max_positions` when 0. Memory is taken as they come.
    kind : str
        How they are kept: a key of `halfpint.kernels.key_values.CACHE_KINDS`.

    Attributes
    ----------
    ids : list of int
        The tokens held.
    text_length : int
        Length of the text for which keys were rotated: `halfpint.families.stretch` may depend on it.
    """

    __slots__ = ("handles", "ids", "kind", "layers", "limit", "text_length")

    def __init__(self, config: ModelConfig, limit: int = 0, kind: str = "f16") -> None:
        self.limit = limit or config.max_positions
        self.kind = kind
        self.layers = tuple(KeyValues(kind, config.kv_heads, config.head_dim) for _ in range(config.layers))
        self.handles = [layer.handle for layer in self.layers]
        self.ids: list[int] = []
        self.text_length = 0

    @property
    def length(self) -> int:
        """Tokens held."""
        return self.layers[0].length

    @property
    def nbytes(self) -> int:
        """Bytes taken."""
        return sum(layer.nbytes for layer in self.layers)

    def truncate(self, length: int) -> None:
        """Forget all tokens after the first `length`: to go on from a shared beginning."""
        for layer in self.layers:
            layer.truncate(length)
        del self.ids[length:]


@dataclass(frozen=True, slots=True)
class Span:
    """Rows [begin, end) of a pass: the next tokens of one text."""

    cache: Cache
    begin: int
    end: int


class Texts:
    """The texts that the rows of one pass belong to.

    Parameters
    ----------
    caches : sequence of Cache
        One for each text.
    counts : sequence of int
        How many tokens each goes on by; their rows follow each other.

    Raises
    ------
    RoomError
        If a text has no room for them.
    """

    __slots__ = ("_angles", "_starts", "spans")

    def __init__(self, caches: Sequence[Cache], counts: Sequence[int]) -> None:
        spans, begin = [], 0
        for cache, count in zip(caches, counts, strict=True):
            if cache.length + count > cache.limit:
                raise RoomError(f"the context of {cache.limit} tokens is full; shorten the text")
            spans.append(Span(cache, begin, begin + count))
            begin += count
        self.spans = tuple(spans)
        self._starts = tuple(cache.length for cache in caches)
        self._angles: dict[int, tuple[FloatArray, FloatArray]] = {}

    def angles(self, rope: Rope) -> tuple[FloatArray, FloatArray]:
        """Cosines and sines of the places of all rows: float32 [rows, dimensions / 2] each.

        Layers share them: what a pass has computed once it keeps, by the identity of `rope`, which lives longer.
        """
        found = self._angles.get(id(rope))
        if found is None:
            parts = [
                rotation(rope, start, span.end - span.begin, span.cache.text_length)
                for span, start in zip(self.spans, self._starts, strict=True)
            ]
            cosines, sines = zip(*parts, strict=True)
            found = parts[0] if len(parts) == 1 else (np.concatenate(cosines), np.concatenate(sines))
            self._angles[id(rope)] = found
        return found
