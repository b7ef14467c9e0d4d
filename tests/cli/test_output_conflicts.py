"""What a command writes beside its result never takes the place of what it reads, or of the result."""

import os
import subprocess
import sys

import pytest
from click.testing import CliRunner

import tiny_models
from halfpint.cli import main

BRIEFLY = ("--bits", "4", "--no-calibrate")


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A model, a quantized one, a plan and a text."""
    folder = tmp_path_factory.mktemp("kept")
    tiny_models.save_tiny("llama", folder / "model")
    small = run("quantize", folder / "model", folder / "small.gguf", *BRIEFLY, "--no-measure")
    plan = run("plan", folder / "model", "--to", "gguf", *BRIEFLY, "--save", folder / "plan.toml")
    assert (small.exit_code, plan.exit_code) == (0, 0), small.stderr + plan.stderr
    (folder / "text.txt").write_text("Once upon a time. " * 200)
    (folder / "link.log").symlink_to(folder / "model" / "model.safetensors")
    os.link(folder / "model" / "model.safetensors", folder / "hard.log")
    return folder


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


QUANTIZE = ("quantize", "{}/model", "{}/new.gguf", "--no-measure")
COMMANDS = {
    "weights": (*QUANTIZE, *BRIEFLY, "OPTION", "{}/model/model.safetensors"),
    "configuration": (*QUANTIZE, *BRIEFLY, "OPTION", "{}/model/config.json"),
    "a new file in the source": (*QUANTIZE, *BRIEFLY, "OPTION", "{}/model/new.log"),
    "a link to the weights": (*QUANTIZE, *BRIEFLY, "OPTION", "{}/link.log"),
    "the weights by another name": (*QUANTIZE, *BRIEFLY, "OPTION", "{}/hard.log"),
    "the output": (*QUANTIZE, *BRIEFLY, "OPTION", "{}/new.gguf"),
    "the plan": (*QUANTIZE, "--plan", "{}/plan.toml", "OPTION", "{}/plan.toml"),
    "another checkpoint": (*QUANTIZE, *BRIEFLY, "OPTION", "{}/small.gguf"),
    "what is verified": ("verify", "{}/small.gguf", "OPTION", "{}/small.gguf"),
    "what is measured": ("measure", "{}/small.gguf", "--against", "{}/model", "OPTION", "{}/small.gguf"),
    "the original": ("measure", "{}/small.gguf", "--against", "{}/model", "OPTION", "{}/model/model.safetensors"),
    "the text": ("measure", "{}/small.gguf", "--against", "{}/model", "--text", "{}/text.txt", "OPTION", "{}/text.txt"),
    "what is timed": ("bench", "{}/small.gguf", "OPTION", "{}/small.gguf"),
    "what is planned": ("plan", "{}/model", *BRIEFLY, "OPTION", "{}/model/config.json"),
}
CASES = [(option, place) for place in COMMANDS for option in ("--log", "--events")]
CASES += [("--map", place) for place, words in COMMANDS.items() if words[0] == "quantize"]
CASES += [("--save", "what is planned")]


@pytest.mark.parametrize(("option", "place"), CASES)
def test_nothing_is_written_over_it(kept, option, place):
    before = contents(kept)
    result = run(*(word.format(kept).replace("OPTION", option) for word in COMMANDS[place]))
    assert result.exit_code == 2, result.stderr
    assert f"error: {option} " in result.stderr
    assert "name another file" in result.stderr
    assert contents(kept) == before


def test_a_plan_is_not_saved_over_a_checkpoint(kept):
    for name in ("small.gguf", "hard.log"):
        before = contents(kept)
        result = run("plan", "demo", *BRIEFLY, "--save", kept / name)
        assert (result.exit_code, "is a checkpoint" in result.stderr) == (2, True)
        assert contents(kept) == before


def test_two_of_them_are_not_one_file(kept):
    result = run("verify", kept / "small.gguf", "--log", kept / "both", "--events", kept / "both")
    assert result.exit_code == 2
    assert not (kept / "both").exists()


def test_a_file_beside_them_is_written_and_written_again(kept):
    for _ in range(2):
        assert run("verify", kept / "small.gguf", "--log", kept / "verify.log").exit_code == 0
    (kept / "verify.log").unlink()


def test_an_output_that_is_a_circle_of_links_is_refused(kept, tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    result = run("quantize", kept / "model", tmp_path / "loop", *BRIEFLY, "--to", "gguf")
    assert result.exit_code == 2
    assert "circle" in result.stderr


WRITES = [
    ("plan", "demo", "--bits", "4", "--save"),
    ("quantize", "demo", "OUT", "--bits", "4", "--no-measure", "--map"),
    ("quantize", "demo", "OUT", "--bits", "4", "--no-measure", "--log"),
    ("bench", "demo", "--log"),
]
READS = [("quantize", "demo", "OUT", "--plan"), ("generate", "demo", "x", "--max-tokens", "1", "--prompt-cache")]


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [*((words, "pipe") for words in (*WRITES, *READS)), *((words, "/dev/zero") for words in READS)],
)
def test_what_is_no_regular_file_is_refused_at_once(arguments, kind, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    words = [str(tmp_path / "out.gguf") if word == "OUT" else word for word in arguments]
    result = run(*words, tmp_path / kind)
    assert result.exit_code == 2, result.output
    assert not (tmp_path / "out.gguf").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("quantize", "demo", "out", "--size", "9" * 5000 + "GB"),
        ("quantize", "demo", "out", "--size", "1" * 39 + "." + "1" * 5000),
        ("bench", "demo", "--batch", "1e20"),
        ("bench", "demo", "--batch", "9" * 5000),
        ("bench", "demo", "--batch", "1000000"),
        ("bench", "demo", "--tokens", str(10**18)),
        ("generate", "demo", "x", "--max-tokens", "9" * 5000),
        ("generate", "demo", "x", "--temperature", "9" * 5000),
        ("plan", "demo", "--format", "x" * 100_000),
        ("plan", "demo", "--bits", "4", "--rule", "x" * 100_000),
    ],
)
def test_numbers_and_words_without_end_are_bad_usage_in_few_words(arguments):
    found = subprocess.run(
        [sys.executable, "-m", "halfpint", *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert found.returncode == 2, found.stderr
    assert len(found.stderr) < 2000
