"""Plan files: a round trip that changes nothing, and errors that say where."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tiny_models
from halfpint import formats
from halfpint.checkpoints import CONTAINERS, open_checkpoint
from halfpint.errors import UnsupportedError, UsageError
from halfpint.planning import plan_file
from halfpint.planning.plan_file import PlanFile, check_model, dumps, loads
from halfpint.planning.planner import Assigned, Wish, make_plan

DOWN = "model.layers.1.mlp.down_proj.weight"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    tiny_models.save_tiny("llama", folder / "one", dtype="bfloat16", hidden_size=256, intermediate_size=512)
    tiny_models.save_tiny("llama", folder / "other", dtype="bfloat16", hidden_size=256, intermediate_size=768)
    return {name: open_checkpoint(folder / name) for name in ("one", "other")}


@pytest.mark.parametrize("container", ["gguf", "compressed-tensors"])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_a_plan_comes_back_from_its_file(models, container, bits):
    plan = make_plan(models["one"], CONTAINERS[container], Wish(bits=bits, calibrate=True))
    text = dumps(plan_file.plan_file(plan, models["one"]))
    file = loads(text, "plan.toml")
    check_model(file, models["one"])
    again = make_plan(models["one"], CONTAINERS[container], Wish(assigned=file.tensors))
    assert [(t.name, t.format, t.solver, t.nbytes) for t in again.tensors] == [
        (t.name, t.format, t.solver, t.nbytes) for t in plan.tensors
    ]
    assert (again.nbytes, again.dropped, again.parameters) == (plan.nbytes, plan.dropped, plan.parameters)
    assert dumps(plan_file.plan_file(again, models["one"])) == text


NAMES = st.dictionaries(st.text(min_size=1), st.sampled_from(["q4_k", "int4-g128", "bf16", ""]), max_size=5)


@given(NAMES, st.text())
def test_any_name_is_written_so_that_it_reads_back(tensors, fingerprint):
    assigned = {
        name: Assigned(formats.by_name(fmt) if fmt else None, "plan.toml", "nearest" if fmt else "copy")
        for name, fmt in tensors.items()
        if not any("\ud800" <= c <= "\udfff" for c in name)
    }
    file = PlanFile("gguf", 12, fingerprint, assigned)
    assert loads(dumps(file), "plan.toml") == file


def edited(models, old, new):
    plan = make_plan(models["one"], CONTAINERS["gguf"], Wish(bits=4))
    text = dumps(plan_file.plan_file(plan, models["one"]))
    assert old in text
    return text.replace(old, new, 1)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("[tensors]", "[tensors", r"plan.toml: .*line 7"),
        (f'"{DOWN}" = {{ format = "iq4_xs"', f'"{DOWN}" = {{ format = "q9_z"', rf"line \d+: {DOWN}: no format 'q9_z'"),
        (
            f'"{DOWN}" = {{ format = "iq4_xs", solver = "nearest"',
            f'"{DOWN}" = {{ format = "iq4_xs", solver = "best"',
            rf"line \d+: {DOWN}: no solver 'best'",
        ),
        (f'"{DOWN}" = {{ format = "iq4_xs", ', f'"{DOWN}" = {{ ', rf"line \d+: {DOWN}: 'format' is missing"),
        (f'"{DOWN}" = {{', f'"{DOWN}" = {{ bits = 4, ', rf"line \d+: {DOWN}: 'bits' is no key"),
        (f'"{DOWN}" = {{ format = "iq4_xs", solver = "nearest" }}', f'"{DOWN}" = "q4_k"', rf"line \d+: {DOWN}: write"),
        ("parameters = ", "parameters = true #", "must be a whole number"),
        ("container = ", "contains = ", "'container' is missing"),
        ('format = "iq4_xs", solver = "nearest"', 'format = "", solver = "nearest"', "needs a format"),
    ],
)
def test_a_broken_plan_is_refused_by_line_and_tensor(models, old, new, words):
    with pytest.raises(UsageError, match=words):
        loads(edited(models, old, new), "plan.toml")


def test_a_plan_of_another_model_is_refused(models):
    plan = make_plan(models["other"], CONTAINERS["gguf"], Wish(bits=4))
    file = loads(dumps(plan_file.plan_file(plan, models["other"])))
    with pytest.raises(UsageError, match="was made for another model"):
        check_model(file, models["one"])
    check_model(file, models["other"])


def test_another_model_is_told_before_any_tensor(models, tmp_path):
    """Whose tensors have other names altogether: it is the model that is wrong, not a line of the plan."""
    tiny_models.save_tiny("llama", tmp_path / "deep", num_hidden_layers=3)
    deep = open_checkpoint(tmp_path / "deep")
    file = plan_file.plan_file(make_plan(deep, CONTAINERS["gguf"], Wish(bits=4)), deep)
    with pytest.raises(UsageError, match="was made for another model"):
        check_model(file, models["one"])
    with pytest.raises(UsageError, match="was made for another model"):
        check_model(
            plan_file.plan_file(make_plan(models["one"], CONTAINERS["gguf"], Wish(bits=4)), models["one"]), deep
        )


def test_a_tensor_that_is_left_out_or_unknown_is_named(models):
    with pytest.raises(UsageError, match=f"says nothing of {DOWN}"):
        check_model(loads(edited(models, f'"{DOWN}"', '#"')), models["one"])
    with pytest.raises(UsageError, match="no tensor absent"):
        check_model(loads(edited(models, f'"{DOWN}"', '"absent"')), models["one"])


@pytest.mark.parametrize(
    ("old", "new", "error", "words"),
    [
        # 320 rows of the embedding have 256 columns: it may be anything but solved with statistics that it has none of.
        (
            'embed_tokens.weight" = { format = "q6_k", solver = "nearest"',
            'embed_tokens.weight" = { format = "q6_k", solver = "feedback"',
            UnsupportedError,
            "linear layers",
        ),
        (
            f'"{DOWN}" = {{ format = "iq4_xs"',
            f'"{DOWN}" = {{ format = "nf4"',
            UnsupportedError,
            f"{DOWN} cannot be nf4",
        ),
        (
            f'"{DOWN}" = {{ format = "iq4_xs", solver = "nearest"',
            f'"{DOWN}" = {{ format = "iq4_xs", solver = "copy"',
            UsageError,
            f"{DOWN} is BF16",
        ),
    ],
)
def test_what_cannot_be_done_is_refused_and_never_replaced(models, old, new, error, words):
    file = loads(edited(models, old, new))
    with pytest.raises(error, match=words):
        make_plan(models["one"], CONTAINERS["gguf"], Wish(assigned=file.tensors))


def test_a_file_that_is_not_there_or_not_text_is_refused(tmp_path):
    with pytest.raises(UsageError, match="cannot be read"):
        plan_file.read(tmp_path / "absent.toml")
    (tmp_path / "deep.toml").write_text("a = " + "[" * 50000 + "]" * 50000)
    with pytest.raises(UsageError, match="too deeply"):
        plan_file.read(tmp_path / "deep.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="cannot be read"):
        plan_file.read(tmp_path / "binary.toml")
    with pytest.raises(UsageError, match="cannot be written"):
        plan_file.write(tmp_path / "absent" / "plan.toml", PlanFile("gguf", 1, "", {}))
