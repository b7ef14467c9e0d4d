"""Allocation: never over the budget, as good as trying everything, and no byte for nothing."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halfpint.errors import RoomError
from halfpint.planning import budget
from halfpint.planning.budget import EXACT_CHOICES, Choice, Group, allocate, frontier


def group(name, pairs):
    return Group((name,), tuple(Choice(None, nbytes, cost) for nbytes, cost in pairs))


def brute_force(groups, budget_bytes):
    """The least cost of every possible mixture that fits."""
    mixtures = itertools.product(*(g.choices for g in groups))
    fitting = (m for m in mixtures if sum(c.nbytes for c in m) <= budget_bytes)
    return min((sum(max(c.cost, 0.0) for c in m) for m in fitting), default=None)


def model(tensors, choices, seed):
    """Costs that fall with the bits, as measured ones do, with some noise."""
    draw = np.random.RandomState(seed)
    groups = []
    for number in range(tensors):
        weights, sensitivity = int(draw.choice([4096, 8192, 16384])), math.exp(1.5 * draw.standard_normal())
        pairs = []
        for bits in np.linspace(2.6, 8.5, choices):
            pairs.append((int(weights * bits / 8), sensitivity * math.exp(-1.2 * bits) * (0.8 + 0.4 * draw.rand())))
        groups.append(group(f"tensor {number}", pairs))
    return groups


def total(chosen):
    return sum(c.nbytes for c in chosen)


def cost(chosen):
    return sum(c.cost for c in chosen)


CHOICES = st.lists(st.tuples(st.integers(1, 60), st.floats(-0.1, 1.0)), min_size=1, max_size=4)


@settings(max_examples=60, deadline=None)
@given(st.lists(CHOICES, min_size=1, max_size=5), st.integers(0, 250))
def test_no_mixture_that_fits_costs_less(pairs, budget_bytes):
    groups = [group(str(number), choices) for number, choices in enumerate(pairs)]
    best = brute_force(groups, budget_bytes)
    if best is None:
        with pytest.raises(RoomError):
            allocate(groups, budget_bytes)
        return
    chosen = allocate(groups, budget_bytes)
    assert total(chosen) <= budget_bytes
    assert cost(chosen) <= best + 1e-9


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("part", [0.35, 0.5, 0.7, 0.95])
def test_the_budget_is_used(seed, part):
    groups = model(40, 11, seed)
    limit = int(part * sum(g.choices[-1].nbytes for g in groups))
    chosen = allocate(groups, limit)
    assert 0.995 * limit <= total(chosen) <= limit


def test_thousands_of_groups_are_shared_out_nearly_as_well_as_can_be():
    groups = model(2000, 9, 0)
    limit = sum(g.choices[4].nbytes for g in groups)
    chosen = allocate(groups, limit)
    assert 0.999 * limit <= total(chosen) <= limit
    # Whatever the price of a byte, cost + price x (bytes - limit) is below what any mixture that fits can reach.
    useful = [frontier(g.choices) for g in groups]
    bounds = []
    for price in np.geomspace(1e-9, 1e-3, 200):
        relaxed = budget._at_price(useful, price)
        bounds.append(cost(relaxed) + price * (total(relaxed) - limit))
    assert sum(map(len, useful)) > EXACT_CHOICES
    assert max(bounds) <= cost(chosen) <= 1.001 * max(bounds)


def test_more_room_never_costs_more():
    groups = model(12, 8, 4)
    smallest, largest = (sum(g.choices[place].nbytes for g in groups) for place in (0, -1))
    costs = [cost(allocate(groups, limit)) for limit in np.linspace(smallest, largest, 9).astype(int).tolist()]
    assert all(later <= earlier * (1 + 1e-6) for earlier, later in itertools.pairwise(costs))


def test_a_budget_below_the_smallest_mixture_names_its_size():
    groups = model(3, 4, 0)
    smallest = sum(g.choices[0].nbytes for g in groups)
    assert total(allocate(groups, smallest)) == smallest
    with pytest.raises(RoomError, match=f"{smallest:,} bytes"):
        allocate(groups, smallest - 1)


def test_what_costs_no_less_than_something_smaller_is_never_taken():
    choices = [Choice(None, 10, 0.5), Choice(None, 20, 0.7), Choice(None, 30, 0.5), Choice(None, 40, -1.0)]
    assert [(c.nbytes, c.cost) for c in frontier(choices)] == [(10, 0.5), (40, 0.0)]
    assert allocate([Group(("a",), tuple(choices))], 39)[0].nbytes == 10


def test_the_same_answer_every_time():
    groups = model(30, 11, 1)
    limit = sum(g.choices[5].nbytes for g in groups)
    assert len({tuple(c.nbytes for c in allocate(groups, limit)) for _ in range(3)}) == 1


def test_nothing_to_decide_is_decided():
    assert allocate([], 0) == ()
