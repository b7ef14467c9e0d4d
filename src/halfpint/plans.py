"""The plan: which tensor gets which format and solver, and which rule said so."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from dataclasses import dataclass

from halfpint.errors import UsageError
from halfpint.tensors import Format


@dataclass(frozen=True, slots=True)
class Rule:
    """Tensors whose name matches `pattern` get `format`; without one they are left out.

    `pattern` is a shell glob over the Hugging Face name (`*down_proj*`), or a regular expression after `re:`.
    """

    pattern: str
    format: Format | None

    def matches(self, name: str) -> bool:
        """Whether the rule speaks of the tensor of this name."""
        if self.pattern.startswith("re:"):
            try:
                return re.search(self.pattern[3:], name) is not None
            except re.error as error:
                raise UsageError(f"rule {self.pattern!r} is no regular expression: {error}") from error
        return fnmatch.fnmatchcase(name, self.pattern)


@dataclass(frozen=True, slots=True)
class PlannedTensor:
    """What one tensor becomes.

    Attributes
    ----------
    name : str
        Hugging Face name.
    shape : tuple of int
        Its shape there.
    format : Format or None
        The target format; None when the tensor is copied byte for byte.
    solver : str
        `nearest`, or `copy`.
    rule : str
        The pattern or preset that decided.
    note : str
        Why the format is not the one the rule asked for; empty when it is.
    nbytes : int
        Bytes in the output, scales included, padding and headers not.
    """

    name: str
    shape: tuple[int, ...]
    format: Format | None
    solver: str
    rule: str
    note: str
    nbytes: int


@dataclass(frozen=True, slots=True)
class Plan:
    """The whole job, decided from headers alone.

    Attributes
    ----------
    container : str
        The output's file convention.
    tensors : tuple of PlannedTensor
        In the order in which they are written.
    dropped : tuple of (name, reason)
        Source tensors that the output leaves out on purpose.
    nbytes : int
        Exact size of the whole output's weight files: tensors, scales, headers and padding.
    parameters : int
        Parameters of the model; tied tensors count once.
    notes : tuple of str
        What is odd about the source and how it was read, and what engines will do otherwise than the original.
    """

    container: str
    tensors: tuple[PlannedTensor, ...]
    dropped: tuple[tuple[str, str], ...]
    nbytes: int
    parameters: int
    notes: tuple[str, ...] = ()

    @property
    def bits_per_weight(self) -> float:
        """8 x bytes of the whole output / parameters."""
        return 8 * self.nbytes / self.parameters


def check_rules_match(rules: Sequence[Rule], names: Sequence[str]) -> None:
    """Refuse a rule that matches no tensor: it is a typing error more often than a wish.

    Raises
    ------
    UsageError
        Naming the rule and some names that exist.
    """
    for rule in rules:
        if not any(rule.matches(name) for name in names):
            sample = ", ".join(list(names)[:3])
            raise UsageError(f"rule {rule.pattern!r} matches no tensor; names look like: {sample}")
