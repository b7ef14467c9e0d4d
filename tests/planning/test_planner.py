"""Plans: rules, presets, fallbacks that say why, and exact sizes."""

import pytest

import tiny_models
from halfpint import formats
from halfpint.checkpoints import CONTAINERS, open_checkpoint
from halfpint.errors import UnsupportedError, UsageError
from halfpint.planning import engines, presets
from halfpint.planning.planner import Wish, guess_role, make_plan
from halfpint.plans import Rule


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    tiny_models.save_tiny("llama", folder / "even", dtype="bfloat16", hidden_size=256, intermediate_size=512)
    tiny_models.save_tiny("llama", folder / "odd", hidden_size=64, intermediate_size=172)
    return {name: open_checkpoint(folder / name) for name in ("even", "odd")}


def formats_of(plan):
    return {t.name: t.format.name if t.format else "" for t in plan.tensors}


@pytest.mark.parametrize("container", ["gguf", "compressed-tensors"])
@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("model", ["even", "odd"])
def test_every_preset_covers_every_tensor_and_knows_the_size(models, model, bits, container):
    source = models[model]
    plan = make_plan(source, CONTAINERS[container], Wish(bits=bits))
    assert {t.name for t in plan.tensors} == set(source.tensors)
    assert plan.nbytes >= sum(t.nbytes for t in plan.tensors)
    # A note is there exactly when the rule's format is not what the tensor gets.
    for tensor in plan.tensors:
        asked = tensor.rule.rpartition(": ")[2]
        if asked in formats.FORMATS and tensor.format.name != asked:
            assert tensor.note, tensor.name


def test_more_bits_never_make_a_smaller_file(models):
    sizes = [make_plan(models["even"], CONTAINERS["gguf"], Wish(bits=bits)).nbytes for bits in range(2, 9)]
    assert sizes == sorted(sizes)


def test_rows_that_do_not_divide_fall_back_to_no_fewer_bits_and_say_so(models):
    plan = make_plan(models["odd"], CONTAINERS["gguf"], Wish(format=formats.by_name("q4_k")))
    found = formats_of(plan)
    assert found["model.layers.0.self_attn.q_proj.weight"] == "iq4_nl"  # 64 columns: blocks of 32 fit
    assert found["model.layers.0.mlp.down_proj.weight"] == "f32"  # 172 columns: no blocks fit a float32 source
    notes = {t.name: t.note for t in plan.tensors}
    assert "172" in notes["model.layers.0.mlp.down_proj.weight"]


def test_the_last_matching_rule_decides(models):
    rules = (Rule("*proj*", formats.by_name("q8_0")), Rule("re:layers\\.1.*down", formats.by_name("q6_k")))
    found = formats_of(make_plan(models["even"], CONTAINERS["gguf"], Wish(bits=4, rules=rules)))
    assert found["model.layers.0.mlp.down_proj.weight"] == "q8_0"
    assert found["model.layers.1.mlp.down_proj.weight"] == "q6_k"
    assert found["model.embed_tokens.weight"] == "q6_k"


def test_a_rule_that_matches_nothing_is_an_error(models):
    with pytest.raises(UsageError, match="matches no tensor"):
        make_plan(models["even"], CONTAINERS["gguf"], Wish(bits=4, rules=(Rule("*absent*", formats.by_name("q8_0")),)))


def test_a_broken_expression_is_an_error(models):
    with pytest.raises(UsageError, match="regular expression"):
        make_plan(models["even"], CONTAINERS["gguf"], Wish(bits=4, rules=(Rule("re:(", formats.by_name("q8_0")),)))


def test_a_format_of_another_container_is_an_error(models):
    with pytest.raises(UnsupportedError):
        make_plan(models["even"], CONTAINERS["gguf"], Wish(rules=(Rule("*q_proj*", formats.by_name("int4-g128")),)))
    with pytest.raises(UnsupportedError):
        make_plan(models["even"], CONTAINERS["compressed-tensors"], Wish(format=formats.by_name("q4_k")))


@pytest.mark.parametrize(
    ("container", "bits", "loads"),
    [("gguf", 4, "llama.cpp"), ("compressed-tensors", 4, "vllm"), ("compressed-tensors", 8, "transformers")],
)
def test_engines_that_can_load_a_plan_are_named_and_the_others_have_reasons(models, container, bits, loads):
    plan = make_plan(models["even"], CONTAINERS[container], Wish(bits=bits))
    config = models["even"].config
    able = engines.loaders(plan, config)
    assert loads in able
    assert "halfpint" in able
    assert set(able) | set(engines.refusals(plan, config)) == {engine.name for engine in engines.ENGINES}


@pytest.mark.parametrize("name", [*presets.FALLBACKS, "int4-g128", "int3-g64-asym", "int2-g32-bf16"])
def test_a_fallback_never_has_fewer_bits(name):
    fmt = formats.by_name(name)
    for other in presets.fallbacks(fmt):
        assert other.bits >= fmt.bits


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("transformer.wte.weight", "embedding"),
        ("lm_head.weight", "head"),
        ("h.0.ln_1.weight", "final_norm"),
        ("blocks.3.mlp.gate.weight", "router"),
        ("blocks.3.attn.qkv.weight", None),
    ],
)
def test_roles_are_guessed_from_names_in_unknown_families(name, role):
    guess = guess_role(name)
    assert (guess.value if guess else None) == role
