"""Spending a budget of bytes: one choice for every group of tensors, the least cost in all (multiple-choice knapsack).

A price per byte splits the problem: at a given price every group chooses for itself. Bisection finds the price at which
the choices just fit, which is optimal up to the last few groups (Everett 1963, Lagrange multipliers); what is left is
spent greedily. Up to `EXACT_CHOICES` choices, branch and bound (HiGHS, through scipy.optimize.milp) then finds
the best of all, and the other answer is kept only if it is better.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from halfpint.errors import RoomError
from halfpint.tensors import Format

EXACT_CHOICES = 700
"""Choices in all groups together up to which branch and bound is worth its time, which is below a second."""

# Bounded by work and not by time: the same plan on every machine.
_NODES = 1000
_GAP = 1e-6
_BISECTIONS = 60


@dataclass(frozen=True, slots=True)
class Choice:
    """One thing that a group may become.

    Attributes
    ----------
    format : Format or None
        None copies the tensors as they are.
    nbytes : int
        Of the whole group.
    cost : float
        What it does to the model, in any unit that adds up: KL in nats.
    """

    format: Format | None
    nbytes: int
    cost: float


@dataclass(frozen=True, slots=True)
class Group:
    """Tensors that must share a format.

    Attributes
    ----------
    names : tuple of str
    choices : tuple of Choice
        At least one.
    """

    names: tuple[str, ...]
    choices: tuple[Choice, ...]


def allocate(groups: Sequence[Group], budget_bytes: int, exact: bool = True) -> tuple[Choice, ...]:
    """Choose for every group, so that the bytes fit and the costs add up to the least.

    Parameters
    ----------
    groups : sequence of Group
        Negative costs count as 0, and a choice that costs no less than a smaller one is never taken.
    budget_bytes : int
    exact : bool
        Whether branch and bound may improve on prices, where the groups are few enough.

    Returns
    -------
    tuple of Choice
        One for each group, in order; together at most `budget_bytes`. The same for the same input, always.

    Raises
    ------
    RoomError
        If the smallest choices do not fit; the message says how small the groups can be.
    """
    useful = [frontier(group.choices) for group in groups]
    smallest = sum(choices[0].nbytes for choices in useful)
    if smallest > budget_bytes:
        raise RoomError(
            f"{budget_bytes:,} bytes are not enough: the smallest mixture of formats has {smallest:,} bytes"
        )
    answer = _by_price(useful, budget_bytes)
    if exact and sum(map(len, useful)) <= EXACT_CHOICES:
        best = _branch_and_bound(useful, budget_bytes)
        if best is not None and _cost(best) < _cost(answer):
            answer = best
    return tuple(answer)


def frontier(choices: Sequence[Choice]) -> list[Choice]:
    """The choices that are worth their bytes: costs clamped at 0, ascending in bytes, strictly descending in cost."""
    kept: list[Choice] = []
    for choice in sorted(choices, key=lambda choice: (choice.nbytes, choice.cost)):
        clamped = Choice(choice.format, choice.nbytes, max(choice.cost, 0.0))
        if not kept or clamped.cost < kept[-1].cost:
            kept.append(clamped)
    return kept


def _cost(choices: Sequence[Choice]) -> float:
    return sum(choice.cost for choice in choices)


def _nbytes(choices: Sequence[Choice]) -> int:
    return sum(choice.nbytes for choice in choices)


def _by_price(useful: Sequence[list[Choice]], budget_bytes: int) -> list[Choice]:
    """Bisect the price of a byte, then spend what is left."""
    low, high = 0.0, 1.0
    while _nbytes(_at_price(useful, high)) > budget_bytes:
        high *= 4
    for _ in range(_BISECTIONS):
        price = (low * high) ** 0.5 if low > 0 else high / 16
        if _nbytes(_at_price(useful, price)) > budget_bytes:
            low = price
        else:
            high = price
        if low > 0 and high / low < 1 + 1e-12:
            break
    return _spend(useful, _at_price(useful, high), budget_bytes)


def _at_price(useful: Sequence[list[Choice]], price: float) -> list[Choice]:
    """What every group takes when a byte costs so much; of equals the smaller."""
    return [min(choices, key=lambda choice: choice.cost + price * choice.nbytes) for choices in useful]


def _spend(useful: Sequence[list[Choice]], chosen: list[Choice], budget_bytes: int) -> list[Choice]:
    """Take the step up that saves most per byte, as long as one fits."""
    chosen = list(chosen)
    left = budget_bytes - _nbytes(chosen)
    while True:
        best, place, step = 0.0, -1, chosen[0] if chosen else Choice(None, 0, 0.0)
        for index, (choices, now) in enumerate(zip(useful, chosen, strict=True)):
            for choice in choices:
                more = choice.nbytes - now.nbytes
                if 0 < more <= left and (now.cost - choice.cost) / more > best:
                    best, place, step = (now.cost - choice.cost) / more, index, choice
        if place < 0:
            return chosen
        left -= step.nbytes - chosen[place].nbytes
        chosen[place] = step


def _branch_and_bound(useful: Sequence[list[Choice]], budget_bytes: int) -> list[Choice] | None:
    """Solve the whole program; None where the solver found nothing that fits to the byte."""
    flat = [choice for choices in useful for choice in choices]
    if not flat:
        return []
    starts = np.cumsum([0, *map(len, useful)])
    # Near one, whatever the units: the solver's tolerances are absolute.
    cost = np.array([choice.cost for choice in flat])
    cost /= max(float(cost.max()), np.finfo(np.float64).tiny)
    nbytes = np.array([choice.nbytes for choice in flat], dtype=np.float64) / max(budget_bytes, 1)
    owners = np.repeat(np.arange(len(useful)), np.diff(starts))
    member = csr_array((np.ones(len(flat)), (owners, np.arange(len(flat)))), shape=(len(useful), len(flat)))
    with _quiet():
        found = milp(
            cost,
            integrality=np.ones(len(flat)),
            bounds=Bounds(0, 1),
            constraints=[LinearConstraint(member, 1, 1), LinearConstraint(nbytes[None, :], -np.inf, 1.0)],
            options={"node_limit": _NODES, "mip_rel_gap": _GAP},
        )
    if found.x is None:
        return None
    chosen = [flat[start + int(np.argmax(found.x[start:end]))] for start, end in pairwise(starts)]
    return chosen if _nbytes(chosen) <= budget_bytes else None


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what the solver's own code prints, whatever its options say, off standard output: the result goes there."""
    library = ctypes.CDLL(None) if os.name == "posix" else None
    if library is None or sys.__stdout__ is None:
        yield
        return
    sys.__stdout__.flush()
    library.fflush(None)
    kept = os.dup(1)
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 1)
        yield
    finally:
        library.fflush(None)
        os.dup2(kept, 1)
        os.close(kept)
