from __future__ import annotations

import pytest

from halfpint.report.grouping import group, ranges


def labels(names, kind=lambda _: ""):
    return [(members.label, len(members.rows)) for members in group(names, lambda name: name, kind)]


def test_numbers_inside_names_are_gathered():
    names = [f"layers.{layer}.{part}" for layer in range(3) for part in ("up", "down")]
    assert labels(names) == [("layers.*.up", 3), ("layers.*.down", 3)]


def test_experts_and_layers_are_both_gathered():
    names = [f"layers.{layer}.experts.{expert}.up" for layer in range(2) for expert in range(4)]
    assert labels(names) == [("layers.*.experts.*.up", 8)]


def test_a_part_of_the_layers_is_named_by_its_ranges():
    names = [f"layers.{layer}.up" for layer in range(8)]
    assert labels(names, kind=lambda name: name == "layers.3.up") == [("layers.0-2,4-7.up", 7), ("layers.3.up", 1)]


def test_a_single_tensor_keeps_its_name():
    assert labels(["model.embed_tokens.weight", "fc.0.weight"]) == [
        ("model.embed_tokens.weight", 1),
        ("fc.0.weight", 1),
    ]


def test_no_row_is_lost():
    names = [f"a.{i}.b" for i in range(5)] + ["a.b", "#.1.#", "a.7.b"]
    groups = group(names, lambda name: name, lambda _: "")
    assert sorted(row for members in groups for row in members.rows) == sorted(names)


@pytest.mark.parametrize(("numbers", "written"), [([0], "0"), ([0, 1, 2], "0-2"), ([0, 2, 3, 9], "0,2-3,9"), ([], "")])
def test_ranges(numbers, written):
    assert ranges(numbers) == written
