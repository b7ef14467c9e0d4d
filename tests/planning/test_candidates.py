"""What a budget may decide, and plans that keep it to the byte."""

import itertools
import math

import pytest

import tiny_models
from halfpint import formats
from halfpint.checkpoints import CONTAINERS, open_checkpoint
from halfpint.checkpoints.compressed_tensors import fusion_conflict
from halfpint.errors import RoomError
from halfpint.planning import engines, presets
from halfpint.planning.candidates import candidates, plan_within
from halfpint.planning.planner import Wish, make_plan, model_parameters, outputs_of
from halfpint.planning.sensitivity import assumed_costs, bell_error
from halfpint.plans import Rule

# (container, engine, smallest and largest bits per weight that are tried)
TARGETS = [
    ("gguf", "", 3.5, 12.0),
    ("gguf", "llama.cpp", 3.5, 12.0),
    ("compressed-tensors", "", 3.5, 12.0),
    ("compressed-tensors", "vllm", 7.0, 12.0),
    ("compressed-tensors", "vllm-cpu", 7.0, 12.0),
    ("compressed-tensors", "transformers", 3.5, 12.0),
]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    wide = {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 4}
    tiny_models.save_tiny("llama", folder / "even", dtype="bfloat16", **wide)
    tiny_models.save_tiny("llama", folder / "odd", hidden_size=96, intermediate_size=160, num_hidden_layers=4)
    tiny_models.save_tiny("mixtral", folder / "experts", dtype="bfloat16", **wide)
    return {name: open_checkpoint(folder / name) for name in ("even", "odd", "experts")}


def groups_of(source, container, engine="", wish=None):
    cost_of = assumed_costs(source)
    return [c.group(cost_of) for c in candidates(source, CONTAINERS[container], wish or Wish(), engine)]


@pytest.mark.parametrize("model", ["even", "odd", "experts"])
@pytest.mark.parametrize(("container", "engine", "lowest", "highest"), TARGETS)
def test_the_whole_file_keeps_the_budget_and_the_engine_loads_it(models, model, container, engine, lowest, highest):
    source = models[model]
    groups = groups_of(source, container, engine)
    smallest = sum(min(c.nbytes for c in g.choices) for g in groups)
    largest = sum(max(c.nbytes for c in g.choices) for g in groups)
    parameters = model_parameters(source)
    for bits in (lowest, (lowest + highest) / 2, highest):
        limit = int(bits * parameters / 8)
        if limit < 1.1 * smallest:
            with pytest.raises(RoomError, match=r"the smallest mixture of formats makes [\d,]+ bytes"):
                plan_within(source, CONTAINERS[container], Wish(), groups, smallest)
            continue
        plan = plan_within(source, CONTAINERS[container], Wish(), groups, limit)
        assert plan.nbytes <= limit
        step = max(larger.nbytes - smaller.nbytes for g in groups for smaller, larger in steps(g)) / limit
        assert plan.nbytes >= (0.995 - step) * min(limit, largest)
        assert not engine or engine in engines.loaders(plan, source.config)
        if container == "compressed-tensors":
            assert fusion_conflict(outputs_of(plan.tensors, source)) is None


def steps(group):
    sizes = sorted(group.choices, key=lambda c: c.nbytes)
    return list(itertools.pairwise(sizes))


def test_the_size_of_a_plan_is_used_to_half_a_percent(models):
    source = models["even"]
    groups = groups_of(source, "gguf")
    for bits in (4.5, 5.0, 6.0, 7.5):
        limit = int(bits * model_parameters(source) / 8)
        assert plan_within(source, CONTAINERS["gguf"], Wish(), groups, limit).nbytes >= 0.995 * limit


def test_a_budget_too_small_by_a_byte_names_the_smallest_file(models):
    source, container = models["even"], CONTAINERS["gguf"]
    groups = groups_of(source, "gguf")
    smallest = make_smallest(source, container, groups)
    assert plan_within(source, container, Wish(), groups, smallest).nbytes == smallest
    with pytest.raises(RoomError, match=f"makes {smallest:,} bytes"):
        plan_within(source, container, Wish(), groups, smallest - 1)


def make_smallest(source, container, groups):
    with pytest.raises(RoomError) as caught:
        plan_within(source, container, Wish(), groups, 1)
    return int(str(caught.value).partition("makes ")[2].partition(" bytes")[0].replace(",", ""))


def test_tensors_that_an_engine_joins_are_one_group(models):
    names = [set(g.names) for g in groups_of(models["even"], "compressed-tensors", "vllm")]
    first = "model.layers.0.self_attn."
    assert {f"{first}{letter}_proj.weight" for letter in "qkv"} in names
    assert {f"{first}q_proj.weight"} in [set(g.names) for g in groups_of(models["even"], "gguf", "llama.cpp")]


@pytest.mark.parametrize(
    ("container", "engine", "groups"),
    [("gguf", "", 4 * 3), ("compressed-tensors", "vllm", 4), ("compressed-tensors", "transformers", 1)],
)
def test_experts_share_what_container_and_engine_make_them_share(models, container, engine, groups):
    found = groups_of(models["experts"], container, engine)
    assert len([g for g in found if ".experts." in g.names[0]]) == groups


def test_rules_stand_beside_a_budget(models):
    source, container = models["even"], CONTAINERS["gguf"]
    rules = (Rule("*embed*", formats.by_name("q8_0")),)
    groups = groups_of(source, "gguf", wish=Wish(rules=rules))
    assert all("embed" not in name for g in groups for name in g.names)
    limit = int(5 * model_parameters(source) / 8)
    plan = plan_within(source, container, Wish(rules=rules), groups, limit)
    assert {t.format.name for t in plan.tensors if "embed" in t.name} == {"q8_0"}
    assert 0.99 * limit <= plan.nbytes <= limit


def test_a_rule_binds_what_is_joined_to_its_tensor(models):
    rules = (Rule("*q_proj*", formats.by_name("int8-g64-bf16")),)
    for group in groups_of(models["even"], "compressed-tensors", "vllm", Wish(rules=rules)):
        if any("k_proj" in name for name in group.names):
            assert {c.format.name for c in group.choices} == {"int8-g64-bf16"}


def test_norms_routers_and_a_tied_head_are_not_in_the_game(models):
    for source in models.values():
        decided = {name for g in groups_of(source, "gguf") for name in g.names}
        assert not [name for name in decided if "norm" in name or "mlp.gate.weight" in name]
        assert "model.embed_tokens.weight" in decided


@pytest.mark.parametrize("container", ["gguf", "compressed-tensors"])
def test_the_menu_holds_what_the_container_holds(models, container):
    for name in presets.CANDIDATES[container]:
        wish = Wish(rules=(Rule("*down_proj*", formats.by_name(name)),))
        plan = make_plan(models["even"], CONTAINERS[container], wish)
        assert {t.format.name for t in plan.tensors if "down_proj" in t.name} == {name}


def test_the_assumed_cost_falls_with_the_bits_and_counts_every_parameter(models):
    by_bits = [bell_error(formats.by_name(name)) for name in ("q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "q8_0", "bf16")]
    assert by_bits == sorted(by_bits, reverse=True)
    source = models["even"]
    cost_of, fmt = assumed_costs(source), formats.by_name("q4_k")
    names = [name for name, spec in source.tensors.items() if len(spec.shape) == 2]
    down, query = "model.layers.0.mlp.down_proj.weight", "model.layers.0.self_attn.q_proj.weight"
    shapes = [math.prod(source.tensors[name].shape) for name in (down, query)]
    assert cost_of(down, fmt) / cost_of(query, fmt) == pytest.approx(shapes[0] / shapes[1])
    assert sum(cost_of(name, fmt) for name in names) <= bell_error(fmt)
    assert cost_of(down, None) == 0
