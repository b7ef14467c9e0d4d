"""Commands that run a model or look at the machine."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from halfpint.cli import main

GENERATE_KEYS = {
    "text",
    "prompt_tokens",
    "generated_tokens",
    "prefill_tokens_per_second",
    "decode_tokens_per_second",
    "peak_memory_bytes",
}


def run(*arguments, **settings):
    result = CliRunner().invoke(main, arguments, **settings)
    assert result.exit_code == 0, result.output
    return result


def machine(*arguments):
    result = run(*arguments, "--json")
    assert result.stderr == ""
    return json.loads(result.stdout)


def test_generate_streams_the_text_it_reports():
    arguments = ("generate", "demo", "The old house", "--max-tokens", "12", "--seed", "3")
    found = machine(*arguments)
    assert set(found) >= GENERATE_KEYS
    assert found["generated_tokens"] <= 12
    shown = run(*arguments)
    assert shown.stdout == f"The old house{found['text']}\n"
    assert "tokens read at" in shown.stderr


def test_the_seed_and_temperature_zero_decide():
    base = ("generate", "demo", "The old house", "--max-tokens", "8")
    assert machine(*base, "--seed", "1")["text"] == machine(*base, "--seed", "1")["text"]
    greedy = {machine(*base, "--temperature", "0", "--seed", seed)["text"] for seed in ("1", "2")}
    assert len(greedy) == 1


def test_a_prompt_from_standard_input():
    base = ("generate", "demo", "--max-tokens", "4", "--temperature", "0", "--threads", "1")
    piped = run(*base, "-", input="The old house")
    assert piped.stdout == run(*base, "The old house").stdout


def test_control_characters_of_a_text_are_shown_not_obeyed():
    shown = run("generate", "demo", "a\x1b[2Jb", "--max-tokens", "2", "--temperature", "0")
    assert shown.stdout.startswith("a\\x1b[2Jb")
    assert "\x1b" not in shown.stdout


def test_chat_answers_every_line_until_quit():
    chat = ("chat", "demo", "--max-tokens", "4", "--temperature", "0")
    shown = run(*chat, input="Good morning.\n\nGood evening.\n/reset\nGood morning.\n/quit\nnever said\n")
    answers = shown.stdout.splitlines()
    assert shown.stderr.count("tokens read at") == 3
    assert answers[0] == answers[-1]
    assert run(*chat, input="").stdout == ""


def test_doctor_describes_the_machine():
    found = machine("doctor")
    assert {"version", "kernel", "kernels", "memory_bytes", "read_bandwidth", "packages"} <= set(found)
    assert found["processors"] >= 1
    assert found["kernel"] in run("doctor").stdout


@pytest.mark.slow
def test_demo_tells_the_whole_story():
    found = machine("demo")
    entries = [found["original"], *found["quantized"]]
    sizes = [entry["bytes"] for entry in entries]
    assert sizes == sorted(sizes, reverse=True)
    assert len(entries) >= 3
    assert found["original"]["kl_mean"] == 0
    for entry in entries:
        assert {"name", "bits_per_weight", "tokens", "top1_agreement", "decode_tokens_per_second", "sample"} <= set(
            entry
        )
