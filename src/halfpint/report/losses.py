"""The loss map: where a file's bytes went, and where its damage comes from, tensor by tensor and block by block."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from halfpint.pipeline.results import PlanResult, QuantizeResult, TensorOutcome

Object = dict[str, Any]

_BLOCK = re.compile(r"(?:^|\.)layers\.(\d+)\.")


def loss_map(result: QuantizeResult) -> Object:
    """Everything that is known of each tensor.

    Returns
    -------
    dict
        `tensors`: bytes, format, `losses` (share of the outputs' energy that is noise, after each step of the solver),
        `relative_error` of the weights, `kl` (what the tensor adds to the measured divergence, by the additive model,
        scaled so that all add up to it), `kl_alone` (measured with nothing but the tensors of `alone` rounded to
        `alone_format`). `blocks`: bytes and `kl` by block, those outside of blocks under null. What was not measured is
        null.
    """
    scale = _scale(result)
    tensors = [_tensor(outcome, result.planned, scale) for outcome in result.tensors]
    by_block: dict[int | None, list[Object]] = {}
    for tensor in tensors:
        by_block.setdefault(tensor["block"], []).append(tensor)
    return {
        "kl_mean": None if result.measurement is None else result.measurement.quality.kl_mean,
        "kl_forecast": result.planned.kl_mean,
        "additivity": result.additivity,
        "blocks": [
            {
                "block": block,
                "bytes": sum(tensor["bytes"] for tensor in members),
                "kl": None if scale is None else sum(tensor["kl"] or 0.0 for tensor in members),
            }
            for block, members in by_block.items()
        ],
        "tensors": tensors,
    }


def _scale(result: QuantizeResult) -> float | None:
    """What the forecast of a tensor is multiplied with; None without a forecast."""
    forecast = result.planned.kl_mean
    if forecast is None:
        return None
    if result.measurement is None or forecast == 0:
        return 1.0
    return result.measurement.quality.kl_mean / forecast


def _tensor(outcome: TensorOutcome, planned: PlanResult, scale: float | None) -> Object:
    tensor = outcome.planned
    match = _BLOCK.search(tensor.name)
    share = planned.kl_by_tensor.get(tensor.name, 0.0)
    return {
        "name": tensor.name,
        "block": None if match is None else int(match[1]),
        "bytes": tensor.nbytes,
        "format": None if tensor.format is None else tensor.format.name,
        "solver": tensor.solver,
        "relative_error": outcome.relative_error,
        "losses": dict(outcome.losses),
        "note": outcome.note,
        "kl": None if scale is None else scale * share,
        **_alone(tensor.name, planned),
    }


def _alone(name: str, planned: PlanResult) -> Object:
    """What was measured with this tensor, or it and its kin, rounded alone."""
    sensed = planned.sensed
    unit = None if sensed is None else next((unit for unit in sensed.units if name in unit.names), None)
    if sensed is None or unit is None:
        return {"alone": [], "alone_format": None, "kl_alone": None}
    return {
        "alone": list(unit.names),
        "alone_format": sensed.tensors[name].low.name,
        "kl_alone": max(unit.kl - sensed.floor, 0.0),
    }
