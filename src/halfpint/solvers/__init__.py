"""The table of solvers: each chooses the codes of a weight.

A solver is a pure function of (weight, statistics, format); what it needs to know of the weight's input is a field
of its row, so that the pipeline gathers only that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from halfpint.errors import UnsupportedError
from halfpint.solvers import feedback, nearest
from halfpint.solvers.statistics import Solved, Statistics
from halfpint.tensors import FloatArray, Format

Solve = Callable[[FloatArray, "Statistics | None", Format], Solved]
"""(weight [rows, columns], statistics or None, format) -> codes. Changes none of its inputs."""


@dataclass(frozen=True, slots=True)
class Solver:
    """One row of the table.

    Attributes
    ----------
    needs : str
        `nothing`, or what calibration must gather of the layer's input.
    solve : Solve
    row_wise : bool
        Whether slices of rows can be solved apart, with the same result.
    """

    needs: Literal["nothing", "second moments"]
    solve: Solve
    row_wise: bool


SOLVERS: Mapping[str, Solver] = MappingProxyType(
    {
        "nearest": Solver("nothing", nearest.solve, row_wise=True),
        "weighted": Solver("second moments", feedback.solve_weighted, row_wise=True),
        "unrefined": Solver("second moments", feedback.solve_unrefined, row_wise=False),
        "feedback": Solver("second moments", feedback.solve, row_wise=False),
    }
)


def by_name(name: str) -> Solver:
    """Look a solver up by the name that the command line and plan files use."""
    try:
        return SOLVERS[name]
    except KeyError:
        raise UnsupportedError(f"no solver {name!r}; there are: {', '.join(SOLVERS)}") from None


def needs_moments(name: str) -> bool:
    """Whether a solver of a plan, or `copy`, must see the layer's input."""
    return name in SOLVERS and SOLVERS[name].needs == "second moments"
