"""Typed and bounded reading of a configuration's values; every complaint names its key."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from halfpint.errors import CheckpointError


@dataclass(frozen=True, slots=True)
class Fields:
    """A mapping from somebody's file, read with suspicion."""

    values: Mapping[str, Any]
    source: str = "configuration"

    def integer(self, key: str, most: int) -> int:
        """Give an integer from 1 to `most`."""
        value = self._required(key)
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
            raise CheckpointError(f"{self.source}: {key} = {value!r} must be an integer from 1 to {most}")
        return value

    def optional_integer(self, key: str, most: int) -> int:
        """Give an integer from 1 to `most`, or 0 when the value is missing or null."""
        return 0 if self.values.get(key) is None else self.integer(key, most)

    def number(self, key: str) -> float:
        """Give a positive, finite number."""
        value = self._required(key)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise CheckpointError(f"{self.source}: {key} = {value!r} must be a number")
        if not math.isfinite(value) or value <= 0:
            raise CheckpointError(f"{self.source}: {key} = {value!r} must be positive and finite")
        return float(value)

    def optional_number(self, key: str) -> float:
        """Give a positive, finite number, or 0 when the value is missing or null."""
        return 0.0 if self.values.get(key) is None else self.number(key)

    def numbers(self, key: str, length: int) -> tuple[float, ...]:
        """Give a list of positive, finite numbers of this length."""
        value = self._required(key)
        if not isinstance(value, list | tuple) or len(value) != length:
            raise CheckpointError(f"{self.source}: {key} must be a list of {length} numbers")
        return tuple(Fields({key: item}, self.source).number(key) for item in value)

    def flag(self, key: str, *, default: bool | None = None) -> bool:
        """Give true or false; `default` when the value is missing or null and there is one."""
        value = self.values.get(key)
        if value is None and default is not None:
            return default
        if not isinstance(value, bool):
            raise CheckpointError(f"{self.source}: {key} = {value!r} must be true or false")
        return value

    def text(self, key: str) -> str:
        """Give a string."""
        value = self._required(key)
        if not isinstance(value, str):
            raise CheckpointError(f"{self.source}: {key} = {value!r} must be text")
        return value

    def section(self, key: str) -> Mapping[str, Any]:
        """Give a mapping, empty when the value is missing or null."""
        value = self.values.get(key)
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            raise CheckpointError(f"{self.source}: {key} = {value!r} must be a mapping")
        return value

    def token_ids(self, key: str) -> tuple[int, ...]:
        """Give one token id, or a list of them, or none; negative ones mean none."""
        value = self.values.get(key)
        ids = value if isinstance(value, list) else [] if value is None else [value]
        if any(isinstance(token, bool) or not isinstance(token, int) for token in ids):
            raise CheckpointError(f"{self.source}: {key} = {value!r} must be token ids")
        return tuple(token for token in ids if token >= 0)

    def _required(self, key: str) -> Any:
        value = self.values.get(key)
        if value is None:
            raise CheckpointError(f"{self.source}: {key} is missing")
        return value
