"""What the table of engines says of plans, before any engine is asked; tests/engines asks them."""

import pytest

import tiny_models
from halfpint import formats
from halfpint.checkpoints import CONTAINERS, open_checkpoint
from halfpint.planning import engines
from halfpint.planning.planner import Wish, make_plan
from halfpint.plans import Rule


@pytest.fixture(scope="module")
def mixture(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixture")
    tiny_models.save_tiny("qwen3_moe", folder, hidden_size=256, moe_intermediate_size=256)
    return open_checkpoint(folder)


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dense")
    tiny_models.save_tiny("llama", folder, hidden_size=256, intermediate_size=512)
    return open_checkpoint(folder)


@pytest.mark.parametrize(
    ("fmt", "rule", "reason"),
    [
        ("int4-g64", None, None),
        ("fp8", None, None),
        ("int4-g64", ("*self_attn*_proj.weight", "int8"), None),
        ("int4-g64", ("*layers.1*experts*", "int8"), "in one format"),
        ("int4-g64", ("*layers.1*experts*", "bf16"), "in one format"),
        ("fp8-block", None, "not of blocks"),
        ("int4-g64-asym", None, "zero points"),
    ],
)
def test_transformers_is_named_only_for_experts_that_it_reads_right(mixture, fmt, rule, reason):
    rules = () if rule is None else (Rule(rule[0], formats.by_name(rule[1])),)
    wish = Wish(format=formats.by_name(fmt), rules=rules)
    plan = make_plan(mixture, CONTAINERS["compressed-tensors"], wish)
    if reason is None:
        assert "transformers" in engines.loaders(plan, mixture.config)
    else:
        assert reason in engines.refusals(plan, mixture.config)["transformers"]
    assert "halfpint" in engines.loaders(plan, mixture.config)


@pytest.mark.parametrize(
    ("wish", "reason"),
    [
        ({"bits": 4}, None),
        ({"format": formats.by_name("int4-g128-asym")}, None),
        ({"bits": 8}, "4-bit groups"),
        ({"bits": 3}, "kernels for 4 and 8 bits"),
        ({"format": formats.by_name("fp8")}, "no CPU kernel for fp8"),
        ({"format": formats.by_name("fp8-block")}, "no CPU kernel for fp8"),
    ],
    ids=str,
)
def test_vllm_on_a_cpu_is_named_only_for_what_it_has_a_kernel_for(dense, wish, reason):
    plan = make_plan(dense, CONTAINERS["compressed-tensors"], Wish(**wish))
    if reason is None:
        assert {"vllm", "vllm-cpu"} <= set(engines.loaders(plan, dense.config))
    else:
        assert reason in engines.refusals(plan, dense.config)["vllm-cpu"]
    eight_bits_or_four = reason is None or "kernels for" not in reason
    assert ("vllm" in engines.loaders(plan, dense.config)) == eight_bits_or_four
