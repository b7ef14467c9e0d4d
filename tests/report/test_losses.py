"""The loss map: bytes and damage add up, and what was not measured is null."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

import handmade
import pytest

from halfpint.formats import by_name
from halfpint.planning.sensitivity import Sensitivity, TensorErrors, Unit
from halfpint.report.json import dumps
from halfpint.report.losses import loss_map

EMBEDDING = "model.embed_tokens.weight"


@pytest.fixture
def result():
    return handmade.QUANTIZED


@pytest.fixture
def explained(result):
    """The same, with what a budget would have measured."""
    names = [outcome.planned.name for outcome in result.tensors if len(outcome.planned.shape) == 2]
    costs = {name: 0.001 * (1 + place % 3) for place, name in enumerate(names)}
    low = TensorErrors(by_name("q3_k"), {"q3_k": 0.02})
    sensed = Sensitivity((Unit((EMBEDDING,), 0.03),), dict.fromkeys(names, low), 1e-6, 1024)
    planned = replace(result.planned, kl_mean=sum(costs.values()), kl_by_tensor=MappingProxyType(costs), sensed=sensed)
    return replace(result, planned=planned)


def test_bytes_of_blocks_are_those_of_their_tensors(result):
    found = loss_map(result)
    assert sum(block["bytes"] for block in found["blocks"]) == sum(t.planned.nbytes for t in result.tensors)
    numbers = [block["block"] for block in found["blocks"]]
    assert numbers == [None, *range(handmade.LAYERS)]


def test_the_parts_of_the_divergence_add_up_to_what_was_measured(explained):
    found = loss_map(explained)
    measured = explained.measurement.quality.kl_mean
    for parts in (found["tensors"], found["blocks"]):
        assert sum(part["kl"] for part in parts) == pytest.approx(measured)
    assert sum(t["kl"] for t in loss_map(replace(explained, measurement=None))["tensors"]) == pytest.approx(
        explained.planned.kl_mean
    )


def test_what_was_measured_alone_is_told_with_its_format(explained):
    by_name = {tensor["name"]: tensor for tensor in loss_map(explained)["tensors"]}
    assert by_name[EMBEDDING]["kl_alone"] == pytest.approx(0.03, rel=1e-3)
    assert (by_name[EMBEDDING]["alone"], by_name[EMBEDDING]["alone_format"]) == ([EMBEDDING], "q3_k")


def test_what_was_not_measured_is_null(result):
    for tensor in loss_map(result)["tensors"]:
        assert tensor["kl"] is None
        assert tensor["kl_alone"] is None
    assert '"kl": null' in dumps(loss_map(result))
