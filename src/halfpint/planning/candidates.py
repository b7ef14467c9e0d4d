"""What a budget may decide: the groups of tensors, the formats each may have, and plans that fit to the byte."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from halfpint import formats
from halfpint.checkpoints.checkpoint import Checkpoint, Container
from halfpint.errors import RoomError
from halfpint.families.record import NORM_ROLES, Role
from halfpint.planning import presets
from halfpint.planning.budget import Choice, Group, allocate
from halfpint.planning.engines import ENGINES
from halfpint.planning.left_out import left_out
from halfpint.planning.planner import Assigned, Wish, make_plan, nbytes_of, refusal, roles_of
from halfpint.plans import Plan, PlannedTensor
from halfpint.tensors import Format, TensorSpec

RULE = "budget"
"""What a plan says of a tensor that the budget decided."""

# The header's length depends a little on the mixture: each round takes off what the one before was over.
_ROUNDS = 12

CostOf = Callable[[str, Format | None], float]
"""(tensor, format) -> what it costs the model, in KL; None is the tensor as it is."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """Tensors that share a format, and what it may be.

    Attributes
    ----------
    names : tuple of str
    options : tuple of (Format or None, bytes)
        Bytes are those of the whole group, headers not counted; None copies the tensors as they are.
    """

    names: tuple[str, ...]
    options: tuple[tuple[Format | None, int], ...]

    def group(self, cost_of: CostOf) -> Group:
        """The same with costs, those of its tensors added up."""
        return Group(
            self.names,
            tuple(Choice(fmt, nbytes, sum(cost_of(name, fmt) for name in self.names)) for fmt, nbytes in self.options),
        )


def candidates(source: Checkpoint, container: Container, wish: Wish, engine: str = "") -> tuple[Candidate, ...]:
    """Every matrix of a checkpoint that a budget may decide on, with the formats that container and engine allow.

    Parameters
    ----------
    source : Checkpoint
    container : Container
        Of the output.
    wish : Wish
        Tensors that its rules speak of are decided already.
    engine : str
        The engine that must load the result; the empty name asks for none in particular.

    Returns
    -------
    tuple of Candidate
        In the checkpoint's order; all have the option None.
    """
    roles = roles_of(source)
    dropped = left_out(source, roles, wish.rules)
    ties = [re.compile(pattern) for pattern in _ties(container.name, engine)]
    members: dict[tuple[object, ...], list[TensorSpec]] = {}
    for spec in source.tensors.values():
        role = roles.get(spec.name)
        if (
            spec.name in dropped
            or spec.format is None
            or len(spec.shape) != 2
            or role in NORM_ROLES
            or role is Role.ROUTER
        ):
            continue
        members.setdefault(_tie(spec.name, ties), []).append(spec)
    found = []
    for specs in members.values():
        ruled = {rule.format for spec in specs for rule in wish.rules if rule.matches(spec.name)}
        free = [spec for spec in specs if not any(rule.matches(spec.name) for rule in wish.rules)]
        if not free:
            continue
        allowed = [fmt for fmt in _formats(container.name) if _fits(free, fmt, source, container, engine)]
        options = [(fmt, sum(nbytes_of(spec, fmt) for spec in free)) for fmt in (*allowed, None)]
        if ruled:
            # A rule of the user's has decided for its kin too.
            options = [(fmt, nbytes) for fmt, nbytes in options if fmt in ruled] or options
        found.append(Candidate(tuple(spec.name for spec in free), tuple(options)))
    return tuple(found)


def _ties(container: str, engine: str) -> Sequence[str]:
    ties = presets.TIES[container]
    if container == "compressed-tensors" and engine in ("", "transformers"):
        # transformers reads all experts of a model in one format.
        return (r".*\.experts\.\d+\.\w+\.weight", *ties)
    return ties


def _tie(name: str, ties: Sequence[re.Pattern[str]]) -> tuple[object, ...]:
    for place, pattern in enumerate(ties):
        match = pattern.fullmatch(name)
        if match is not None:
            return (place, *match.groups())
    return (name,)


def _formats(container: str) -> list[Format]:
    return [formats.by_name(name) for name in (*presets.CANDIDATES[container], "bf16")]


def _fits(specs: Sequence[TensorSpec], fmt: Format, source: Checkpoint, container: Container, engine: str) -> bool:
    """Whether every tensor may have the format: its shape, the container, the engine, and no bytes for nothing."""
    if any(spec.format == fmt for spec in specs):
        return False
    if any(refusal(spec, fmt, container) is not None for spec in specs):
        return False
    if sum(nbytes_of(spec, fmt) for spec in specs) >= sum(spec.nbytes for spec in specs):
        return False
    refuses = next((row.refusal for row in ENGINES if row.name == engine), None)
    if refuses is None:
        return True
    planned = tuple(
        PlannedTensor(spec.name, spec.shape, fmt, "nearest", "", "", nbytes_of(spec, fmt)) for spec in specs
    )
    return refuses(Plan(container.name, planned, (), 0, 1), source.config) is None


def plan_of(source: Checkpoint, container: Container, wish: Wish, chosen: Sequence[tuple[Group, Choice]]) -> Plan:
    """The plan of a mixture, with its exact size."""
    assigned = {name: Assigned(choice.format, RULE) for group, choice in chosen for name in group.names}
    return make_plan(source, container, replace(wish, assigned=assigned))


def smallest_plan(
    source: Checkpoint, container: Container, wish: Wish, groups: Sequence[Group], budget_bytes: int | None = None
) -> Plan:
    """The plan that gives every group its smallest format.

    Raises
    ------
    RoomError
        If that is larger than a budget; the message says how large it is.
    """
    smallest = [min(group.choices, key=lambda choice: choice.nbytes) for group in groups]
    least = plan_of(source, container, wish, list(zip(groups, smallest, strict=True)))
    if budget_bytes is not None and least.nbytes > budget_bytes:
        raise RoomError(
            f"{budget_bytes:,} bytes are not enough: the smallest mixture of formats makes {least.nbytes:,} bytes "
            f"({least.bits_per_weight:.2f} bits per weight); give more, or cut the model before"
        )
    return least


def plan_within(
    source: Checkpoint, container: Container, wish: Wish, groups: Sequence[Group], budget_bytes: int
) -> Plan:
    """Find the mixture of least cost whose whole output, headers and padding included, has at most these bytes.

    Raises
    ------
    RoomError
        If the smallest mixture is larger; the message says how large that is.
    """
    least = smallest_plan(source, container, wish, groups, budget_bytes)
    smallest = sum(min(choice.nbytes for choice in group.choices) for group in groups)
    allowance = budget_bytes - (least.nbytes - smallest)
    for _ in range(_ROUNDS):
        plan = plan_of(source, container, wish, list(zip(groups, allocate(groups, allowance), strict=True)))
        if plan.nbytes <= budget_bytes:
            return plan
        allowance -= plan.nbytes - budget_bytes
    return least
