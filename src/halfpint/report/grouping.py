"""Equal tensors of many layers as one row: `model.layers.*.mlp.up_proj.weight`, 32 of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Row = TypeVar("Row")

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


@dataclass(frozen=True, slots=True)
class Alike(Generic[Row]):
    """Rows that differ in the numbers inside their names only.

    Attributes
    ----------
    label : str
        The name, with what the numbers run over: `*` when the group has all that the pattern has, else ranges.
    rows : tuple of Row
        At least one.
    """

    label: str
    rows: tuple[Row, ...]


def group(rows: Sequence[Row], name: Callable[[Row], str], kind: Callable[[Row], Hashable]) -> list[Alike[Row]]:
    """Gather rows whose names differ in numbers only and whose `kind` is equal, in order of first appearance."""
    patterns: dict[str, list[tuple[int, ...]]] = {}
    gathered: dict[tuple[str, Hashable], list[Row]] = {}
    for row in rows:
        pattern = _NUMBER.sub("#", name(row))
        patterns.setdefault(pattern, []).append(_numbers(name(row)))
        gathered.setdefault((pattern, kind(row)), []).append(row)
    groups = []
    for (pattern, _), members in gathered.items():
        label = _label(pattern, [_numbers(name(row)) for row in members], patterns[pattern])
        groups.append(Alike(label, tuple(members)))
    return groups


def _numbers(name: str) -> tuple[int, ...]:
    return tuple(int(number) for number in _NUMBER.findall(name))


def _label(pattern: str, mine: Sequence[tuple[int, ...]], all_of_them: Sequence[tuple[int, ...]]) -> str:
    label = pattern
    for place in range(len(mine[0])):
        here = {numbers[place] for numbers in mine}
        everywhere = {numbers[place] for numbers in all_of_them}
        word = "*" if here == everywhere and len(here) > 1 else ranges(sorted(here))
        label = label.replace("#", word, 1)
    return label


def ranges(numbers: Sequence[int]) -> str:
    """Write ascending numbers as ranges: `0-3,7,9-11`."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)
