"""Spending a budget of bytes: one choice for every group of tensors, the least cost in all (multiple-choice knapsack).

A price per byte splits the problem: at a given price every group chooses for itself. Bisection finds the price at which
the choices just fit, which is optimal up to the last few groups (Everett 1963, Lagrange multipliers); what is left is
spent greedily. Up to `EXACT_CHOICES` choices, all mixtures are then searched, group by group. Few of them have to be
looked at: at that price every group has a least sum of cost and price; the choices made so far exceed these by some
amount whatever comes after, and what exceeds them by more than the answer at hand does is no better (Dyer, Kayal and
Walker 1984).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from halfpint.errors import RoomError
from halfpint.tensors import Format

_Indices = NDArray[np.int64]

EXACT_CHOICES = 700
"""Choices in all groups together up to which a search is worth its time, which is below a second."""

# Mixtures of the first groups that are carried on: bounded by work and not by time, for the same plan on every machine.
_MOST_MIXTURES = 20_000
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
        Whether a search may improve on prices, where the groups are few enough.

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
    price = _price(useful, budget_bytes)
    answer = _spend(useful, _at_price(useful, price), budget_bytes)
    if exact and sum(map(len, useful)) <= EXACT_CHOICES:
        answer = _search(useful, budget_bytes, price, _cost(answer)) or answer
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


def _price(useful: Sequence[list[Choice]], budget_bytes: int) -> float:
    """The least price of a byte, nearly, at which what the groups choose fits."""
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
    return high


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


def _search(useful: Sequence[list[Choice]], budget_bytes: int, price: float, known_cost: float) -> list[Choice] | None:
    """Find the cheapest mixture, if it is cheaper than one that is known.

    Parameters
    ----------
    useful : sequence of list of Choice
    budget_bytes : int
    price : float
        Of a byte; any gives the same answer, a good one soon.
    known_cost : float

    Returns
    -------
    list of Choice or None
    """
    least = [min(choice.cost + price * choice.nbytes for choice in choices) for choices in useful]
    most_excess = known_cost + price * budget_bytes - sum(least)
    sizes, costs = np.zeros(1, np.int64), np.zeros(1)
    smallest_after = list(accumulate([0, *(choices[0].nbytes for choices in reversed(useful))]))[::-1][1:]
    least_before = accumulate(least)
    steps: list[tuple[_Indices, _Indices]] = []
    for choices, after, floor in zip(useful, smallest_after, least_before, strict=True):
        all_sizes = sizes[:, None] + np.array([choice.nbytes for choice in choices])
        all_costs = costs[:, None] + np.array([choice.cost for choice in choices])
        excess = all_costs + price * all_sizes - floor
        kept = (excess < most_excess) & (all_sizes <= budget_bytes - after)
        parents, taken = np.nonzero(kept)
        sizes, costs = all_sizes[kept], all_costs[kept]
        chosen = _worth(sizes, costs, excess[kept])
        sizes, costs = sizes[chosen], costs[chosen]
        steps.append((parents[chosen], taken[chosen]))
    if not len(costs) or costs.min() >= known_cost:
        return None
    at, answer = int(np.argmin(costs)), []
    for (parents, taken), choices in zip(reversed(steps), reversed(useful), strict=True):
        answer.append(choices[taken[at]])
        at = int(parents[at])
    return answer[::-1]


def _worth(sizes: _Indices, costs: NDArray[np.float64], excess: NDArray[np.float64]) -> _Indices:
    """Which mixtures to carry on: those that no smaller one is as cheap as; of too many, the most promising."""
    order: _Indices = np.lexsort((costs, sizes))
    cheapest = np.minimum.accumulate(costs[order])
    chosen: _Indices = order[np.concatenate([np.ones(min(1, len(order)), bool), costs[order][1:] < cheapest[:-1]])]
    if len(chosen) <= _MOST_MIXTURES:
        return chosen
    promising: _Indices = np.sort(np.argsort(excess[chosen], kind="stable")[:_MOST_MIXTURES])
    return chosen[promising]
