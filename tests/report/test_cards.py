from __future__ import annotations

import dataclasses

import handmade
import pytest
from rich.cells import cell_len
from rich.console import Console

from halfpint import formats
from halfpint.report import cards, inspecting, planning, quality, speed
from halfpint.report.layout import bar

CARDS = {
    "model": lambda _: inspecting.model_card(handmade.INSPECTION, "llama-2-7b"),
    "tensor": lambda width: inspecting.tensor_card(handmade.TENSOR_VIEW, width),
    "plan": lambda _: planning.plan_card(handmade.PLANNED, "llama-2-7b"),
    "quantize": lambda _: planning.quantize_card(handmade.QUANTIZED, "llama-2-7b"),
    "plan for a memory": lambda _: planning.plan_card(handmade.FITTED, "llama-2-7b"),
    "budget": lambda _: planning.quantize_card(handmade.BUDGETED, "llama-2-7b"),
    "search": lambda _: planning.quantize_card(handmade.SEARCHED, "llama-2-7b"),
    "unmeasured": lambda _: planning.quantize_card(handmade.UNMEASURED, "llama-2-7b"),
    "measure": lambda _: quality.measure_card(handmade.MEASUREMENT, "llama.gguf", "llama-2-7b"),
    "demo": lambda _: cards.demo_card(handmade.DEMO),
    "verify": lambda _: cards.verify_card(handmade.VERIFIED, "llama.gguf"),
    "bench": lambda _: speed.bench_card(handmade.BENCHED, "llama-2-7b"),
    "doctor": lambda _: cards.doctor_card(handmade.DOCTOR),
}


def drawn(renderable, width=100, colour=False):
    console = Console(width=width, force_terminal=colour, color_system="truecolor" if colour else None)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()


@pytest.mark.parametrize("width", [80, 100])
@pytest.mark.parametrize("name", CARDS)
def test_a_card_stays_within_its_width_and_one_screen(name, width):
    lines = drawn(CARDS[name](width), width).splitlines()
    assert max(cell_len(line) for line in lines) <= width
    assert len(lines) <= 50
    assert not any(line.endswith("…") for line in lines)


@pytest.mark.parametrize("name", CARDS)
def test_without_colour_there_are_no_escapes(name):
    assert "\x1b" not in drawn(CARDS[name](100))


def test_a_hostile_name_cannot_drive_the_terminal():
    name = "evil\x1b]0;title\x07[bold]\x9b31m.weight"
    spec = dataclasses.replace(handmade.INSPECTION.tensors[0], name=name)
    found = dataclasses.replace(handmade.INSPECTION, tensors=(spec,), family="x\x1b[2J")
    for every_tensor in (True, False):
        shown = drawn(inspecting.model_card(found, "a\x1b[1mb", every_tensor))
        assert "\x1b" not in shown
        assert "\x9b" not in shown
        assert "[bold]" in shown
        assert "\\x1b" in shown


def test_equal_layers_share_a_row_and_exceptions_stand_alone():
    shown = drawn(planning.plan_card(handmade.PLANNED, "llama"))
    assert "model.layers.0-6,8-31." in shown
    assert "model.layers.7." in shown
    assert "model.layers.*.input_layernorm" in shown
    assert "model.layers.12." not in shown
    assert "model.layers.12." in drawn(planning.plan_card(handmade.PLANNED, "llama", every_tensor=True))


def test_the_worst_five_tensors_are_named():
    shown = drawn(planning.quantize_card(handmade.QUANTIZED, "llama"))
    worst = sorted(handmade.QUANTIZED.tensors, key=lambda outcome: -outcome.relative_error)
    for outcome in worst[:5]:
        assert outcome.planned.name in shown
    assert worst[5].planned.name not in shown


def test_a_budget_says_how_a_uniform_file_did_and_a_search_what_was_tried():
    shown = drawn(planning.quantize_card(handmade.BUDGETED, "llama"))
    assert "--format q4_k" in shown
    assert "the mixture is better" in shown
    assert "no uniform file" in drawn(planning.quantize_card(handmade.ALONE, "llama"))
    tried = drawn(planning.quantize_card(handmade.SEARCHED, "llama"))
    assert (tried.count("  pass"), tried.count("  fail")) == (2, 6)
    assert "no uniform file" not in tried


def test_the_next_command_is_one_that_the_model_can_do():
    """A model without a chat template cannot chat, and one without a tokenizer cannot speak at all."""
    told = {
        speech: drawn(planning.quantize_card(dataclasses.replace(handmade.QUANTIZED, speech=speech), "m"))
        for speech in ("chat", "generate", "")
    }
    assert "halfpint chat llama.gguf" in told["chat"]
    assert "halfpint chat" not in told["generate"]
    assert "halfpint generate llama.gguf 'Once upon a time'" in told["generate"]
    assert "next" not in told[""]


def test_a_source_that_is_quantized_already_is_said_to_be():
    """Before the work and after it: the comparison cannot see what the source had lost."""
    lossy = dataclasses.replace(handmade.PLANNED, original_bits=4.5)
    for card in (
        planning.plan_card(lossy, "m"),
        planning.quantize_card(dataclasses.replace(handmade.QUANTIZED, planned=lossy), "m"),
    ):
        assert "quantized already, at 4.50 bits" in " ".join(drawn(card).split())
    assert "quantized already" not in drawn(planning.plan_card(handmade.PLANNED, "m"))


def test_a_memory_is_shown_in_its_parts():
    shown = drawn(planning.plan_card(handmade.FITTED, "llama"))
    for part in ("8.00 GB", "6.46 GB", "1.07 GB", "8,192 tokens"):
        assert part in shown


@pytest.mark.parametrize("verdict", ["PASS", "FAIL", "UNGATED", "UNMEASURED"])
def test_the_verdict_is_a_word_not_only_a_colour(verdict):
    result = dataclasses.replace(handmade.QUANTIZED, verdict=verdict, verdict_reason="because")
    assert f"{verdict}  because" in drawn(planning.quantize_card(result, "llama"))


def test_markdown_has_every_figure_and_keeps_names_from_being_markup():
    told = quality.measure_markdown(handmade.MEASUREMENT, "a|b*c", "llama")
    assert "0.01235 ± 0.00042" in told
    assert "95.61 ± 0.31 %" in told
    assert r"a\|b\*c" in told
    rows = [line for line in told.splitlines() if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in rows} <= {4, 6}


@pytest.mark.parametrize(
    ("nbytes", "computer", "gpu"),
    [
        (3.9e9, "8 GB laptop", "8 GB GPU"),
        (7.16e9, "16 GB laptop", "12 GB GPU"),
        (13.5e9, "32 GB computer", "16 GB GPU"),
        (27e9, "64 GB workstation", "48 GB GPU"),
        (2e12, "", ""),
    ],
)
def test_sizes_that_everyone_knows_fit_where_everyone_knows(nbytes, computer, gpu):
    assert inspecting.smallest(inspecting.COMPUTERS, nbytes) == computer
    assert inspecting.smallest(inspecting.GPUS, nbytes) == gpu


def test_a_bar_is_as_long_as_its_part():
    assert bar(1, 10) == "█" * 10
    assert bar(0, 10) == ""
    assert bar(1e-9, 10) == "▏"
    assert [cell_len(bar(part / 80, 10)) for part in (8, 9, 80)] == [1, 2, 10]


@pytest.mark.parametrize(
    ("path", "word"),
    [("out.gguf", "out.gguf"), ("my model", "'my model'"), ("a'b", "'a'\\''b'"), ("", "''")],
)
def test_a_path_is_written_as_a_shell_takes_it(path, word):
    assert planning.shell_word(path) == word


def test_all_integer_formats_are_one_pattern_and_some_are_listed():
    names = tuple(name for name in formats.FORMATS if name.startswith(("q8", "int", "nf4")))
    shown = drawn(cards.doctor_card(dataclasses.replace(handmade.DOCTOR, native_formats=names)))
    assert "int2..int8[-gN][-asym][-bf16|-fp32]" in shown
    assert "q8_0" in shown
    assert "nf4" in shown
    some = drawn(cards.doctor_card(dataclasses.replace(handmade.DOCTOR, native_formats=("int4", "int4-g32"))))
    assert "int4, int4-g32" in some
