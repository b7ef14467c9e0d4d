"""Commands that run a model or look at the machine."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from contextlib import closing

import pytest
from click.testing import CliRunner

from halfpint.cli import main
from halfpint.errors import UsageError
from halfpint.models.opening import demo_folder
from halfpint.pipeline import verbs
from halfpint.pipeline.options import Budget, GenerateOptions, QuantizeOptions

GENERATE_KEYS = {
    "text",
    "prompt_tokens",
    "generated_tokens",
    "cached_tokens",
    "drafted_tokens",
    "accepted_tokens",
    "prefill_tokens_per_second",
    "decode_tokens_per_second",
    "peak_memory_bytes",
}

BENCH_KEYS = {
    "prefill_tokens_per_second",
    "decode_tokens_per_second",
    "read_bandwidth",
    "bandwidth_share",
    "arithmetic_share",
    "load_seconds",
    "peak_memory_bytes",
    "spread",
    "threads",
    "batch",
}


def run(*arguments, **settings):
    result = CliRunner().invoke(main, arguments, **settings)
    assert result.exit_code == 0, result.output
    return result


def machine(*arguments):
    result = run(*arguments, "--json")
    assert result.stderr == ""
    return json.loads(result.stdout)


def test_a_prompt_cache_and_guesses_change_no_text(tmp_path):
    words = "The old house stood on the hill, and the old house"
    base = ("generate", "demo", "--max-tokens", "12", "--temperature", "0")
    plain = machine(*base, words, "--draft", "0")
    assert plain["drafted_tokens"] == plain["cached_tokens"] == 0
    file = str(tmp_path / "prompt")
    first, again = (machine(*base, words, "--draft", "3", "--prompt-cache", file) for _ in range(2))
    longer = machine(*base, f"{words} was old", "--prompt-cache", file)
    assert first["text"] == again["text"] == plain["text"]
    assert (first["cached_tokens"], again["prompt_tokens"]) == (0, 1)
    assert longer["cached_tokens"] == plain["prompt_tokens"]
    refused = CliRunner().invoke(main, [*base, words, "--prompt-cache", file, "--kv-cache", "q8"])
    assert refused.exit_code == 2
    assert "kind" in refused.stderr


def test_generate_streams_the_text_it_reports():
    arguments = ("generate", "demo", "The old house", "--max-tokens", "12", "--seed", "3")
    found = machine(*arguments)
    assert set(found) >= GENERATE_KEYS
    assert found["generated_tokens"] <= 12
    shown = run(*arguments)
    assert shown.stdout == f"The old house{found['text']}\n"
    assert " tok/s, decode " in shown.stderr


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
    assert shown.stderr.count(", decode ") == 3
    assert answers[0] == answers[-1]
    assert run(*chat, input="").stdout == ""


def test_a_full_context_keeps_the_chat_going():
    long = "The old house stood at the end of the road. " * 400
    shown = run("chat", "demo", "--max-tokens", "2", "--temperature", "0", input=f"{long}\nGood morning.\n")
    assert "shorten the" in shown.stderr
    assert "/reset" in shown.stderr.splitlines()[1]
    assert shown.stderr.count(" tok/s, decode ") == 1


@pytest.mark.usefixtures("heeded_signals")
def test_an_interrupt_stops_the_answer_and_not_the_chat():
    typing, terminal = pty.openpty()
    chat = (sys.executable, "-u", "-m", "halfpint.cli", "chat", "demo", "--max-tokens", "100000")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(chat, stdin=terminal, **pipes) as process:
        os.write(typing, b"Good morning.\n")
        assert process.stdout.read(len("you> ") + 1)
        process.send_signal(signal.SIGINT)
        os.write(typing, b"/quit\n")
        shown, said = process.communicate()
        os.close(terminal)
        os.close(typing)
    assert process.returncode == 0
    assert shown.endswith(b"you> ")
    assert b"stopped" in said


def test_a_stopped_answer_is_as_if_it_was_never_asked_for():
    options = GenerateOptions(max_tokens=6, temperature=0.0)

    def stop(_piece):
        raise KeyboardInterrupt

    with closing(verbs.Chat("demo", options)) as chat, closing(verbs.Chat("demo", options)) as other:
        for each in (chat, other):
            each.reply("Good morning.")
        with pytest.raises(KeyboardInterrupt):
            chat.reply("What is in the house?", stop)
        assert chat.reply("Good evening.").text == other.reply("Good evening.").text


def test_bench_measures_every_length_beside_the_limits():
    told = machine("bench", "demo", "--prompt", "8", "--prompt", "24", "--tokens", "4", "--repeats", "2")
    assert set(told) >= BENCH_KEYS
    assert [(row["prompt_tokens"], row["tokens"]) for row in told["rows"]] == [(8, 4), (24, 4)]
    for row in told["rows"]:
        for name, (lowest, highest) in row["spread"].items():
            assert 0 < lowest <= row[name] <= highest
    shown = run("bench", "demo", "--prompt", "8", "--tokens", "2", "--repeats", "1", "--batch", "2").stdout
    assert "of bandwidth" in shown
    assert "2 texts together" in shown


def test_bench_needs_no_tokenizer(tmp_path):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).symlink_to(demo_folder() / name)
    assert machine("bench", str(tmp_path), "--prompt", "4", "--tokens", "2", "--repeats", "1")["repeats"] == 1


def test_a_bench_beyond_the_context_is_refused():
    result = CliRunner().invoke(main, ["bench", "demo", "--prompt", "100000"])
    assert result.exit_code == 4
    assert "shorter --prompt" in result.stderr


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


def test_a_wrong_place_for_the_prompt_cache_is_told_before_the_work(tmp_path):
    for place, words in ((tmp_path / "none" / "file", "folder that exists"), (demo_folder() / "config.json", "not a")):
        result = CliRunner().invoke(main, ["generate", "demo", "Once", "--prompt-cache", str(place)])
        assert result.exit_code in (2, 3)
        assert words in result.output
        assert result.stdout == ""


def test_an_output_that_exists_is_told_before_anything_is_measured(tmp_path):
    """A budget measures the model first, which would be in vain."""
    heard = []
    with pytest.raises(UsageError, match="exists"):
        verbs.quantize(
            "demo", tmp_path, QuantizeOptions(budget=Budget(bits_per_weight=5)), lambda *step: heard.append(step)
        )
    assert not heard
