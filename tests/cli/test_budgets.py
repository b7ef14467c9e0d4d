"""Budgets and plan files from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from halfpint.cli import main
from halfpint.cli.budgets import Bytes
from halfpint.errors import UsageError
from halfpint.pipeline.options import Budget, QuantizeOptions


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    """`demo` is the embedded model only where nothing else is called so."""
    monkeypatch.chdir(tmp_path)


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def machine(*arguments):
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


@pytest.mark.parametrize(
    ("words", "nbytes"),
    [
        ("8GB", 8 * 10**9),
        ("8GiB", 8 * 2**30),
        ("3.5GB", 3_500_000_000),
        ("0.7GB", 700_000_000),
        (" 1.5 mib ", 1_572_864),
        ("12kB", 12_000),
        ("100B", 100),
        (".5kb", 500),
        ("2TB", 2 * 10**12),
    ],
)
def test_sizes(words, nbytes):
    assert Bytes().convert(words, None, None) == nbytes


@pytest.mark.parametrize("words", ["", "GB", "-1GB", "0MB", "8G", "1e9B", "nan", "3.5", "1,5GB", "0.1B", "inf GB"])
def test_no_sizes(words):
    with pytest.raises(click.BadParameter, match=r"3\.5GB|less than a byte"):
        Bytes().convert(words, None, None)


@pytest.mark.parametrize(("option", "limit"), [(("--size", "3.5MB"), 3_500_000), (("--bpw", "4.25"), None)])
def test_a_budget_is_kept_to_the_byte(option, limit):
    found = machine("plan", "demo", *option, "--no-calibrate")
    limit = limit or int(4.25 * found["parameters"] / 8)
    assert 0.995 * limit <= found["bytes"] <= limit
    assert {"budget"} < {tensor["rule"] for tensor in found["tensors"]}


def test_a_memory_is_shared_between_weights_and_text():
    plans = [machine("plan", "demo", "--fit", "110MB", "--context", n, "--no-calibrate") for n in (64, 512)]
    for found in plans:
        assert found["memory"]["memory_bytes"] == 110_000_000
        assert found["bytes"] <= found["memory"]["weights_bytes"]
    assert plans[0]["memory"]["kv_bytes"] < plans[1]["memory"]["kv_bytes"]
    assert "Where the memory goes" in run("plan", "demo", "--fit", "110MB", "--no-calibrate").stdout


def test_a_saved_plan_is_carried_out_as_edited(tmp_path):
    planned = machine("plan", "demo", "--bpw", "4.5", "--no-calibrate", "-o", "plan.toml")
    made = machine("quantize", "demo", "a.gguf", "--plan", "plan.toml", "--no-measure")
    assert [(t["name"], t["format"], t["solver"]) for t in made["tensors"]] == [
        (t["name"], t["format"], t["solver"]) for t in planned["tensors"]
    ]
    assert made["bytes"] == planned["bytes"] == Path("a.gguf").stat().st_size
    name = "model.layers.3.mlp.down_proj.weight"
    lines = Path("plan.toml").read_text(encoding="utf-8").splitlines()
    edited = [f'"{name}" = {{ format = "q8_0", solver = "nearest" }}' if name in line else line for line in lines]
    Path("plan.toml").write_text("\n".join(edited), encoding="utf-8")
    again = machine("quantize", "demo", "b.gguf", "--plan", "plan.toml", "--dry-run")
    assert {t["format"] for t in again["tensors"] if t["name"] == name} == {"q8_0"}
    assert {t["rule"] for t in again["tensors"]} == {"plan.toml"}
    lines[lines.index(edited[0])] = "parameters = "
    Path("plan.toml").write_text("\n".join(lines), encoding="utf-8")
    broken = run("quantize", "demo", "b.gguf", "--plan", "plan.toml", "--no-measure")
    assert broken.exit_code == 2
    assert "line 1" in broken.stderr


def test_a_plan_for_another_container_is_refused():
    machine("plan", "demo", "--bits", "4", "--save", "plan.toml")
    result = run("quantize", "demo", "folder", "--plan", "plan.toml", "--for", "vllm", "--no-measure")
    assert result.exit_code == 2
    assert "a plan for gguf" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "exit_code", "words"),
    [
        (("--size", "3MB", "--bpw", "4"), 2, "one of --size, --bpw and --fit"),
        (("--size", "3MB", "--bits", "4"), 2, "not both"),
        (("--bpw", "4", "--format", "q4_k"), 2, "not both"),
        (("--bpw", "4", "--context", "100"), 2, "--fit"),
        (("--bpw", "nan"), 2, "finite"),
        (("--size", "3"), 2, "3.5GB"),
        (("--size", "1MB", "--no-calibrate"), 4, "the smallest mixture of formats makes"),
        (("--fit", "50MB", "--no-calibrate"), 4, "no room for weights"),
        (("--fit", "1GB", "--context", "10000"), 2, "at most 512"),
        (("--bits", "4", "--max-ram", "10MB"), 4, "--max-ram"),
        (("--bits", "4", "--no-calibrate", "--text", "none.txt"), 2, "--no-calibrate leaves out"),
        (("--bits", "4", "--no-calibrate", "--seed", "1"), 2, "--no-calibrate leaves out"),
    ],
)
def test_budgets_that_cannot_be_met(arguments, exit_code, words):
    result = run("plan", "demo", *arguments)
    assert result.exit_code == exit_code, result.output
    assert words in result.stderr
    assert result.stdout == ""


def test_one_record_holds_one_budget():
    with pytest.raises(UsageError, match="one of"):
        Budget(size_bytes=1, memory_bytes=1)
    with pytest.raises(UsageError, match="positive"):
        Budget(bits_per_weight=float("nan"))
    with pytest.raises(UsageError, match="not both"):
        QuantizeOptions(bits=4, budget=Budget(size_bytes=1))


def test_text_of_ones_own_calibrates(tmp_path):
    sentences = [f"On day {day} the captain saw {day * day % 97} gulls and {day % 7} sails. " for day in range(120)]
    Path("text.txt").write_text("".join(sentences), encoding="utf-8")
    # One weight tells: what it is solved to follows from what the text shows it.
    common = ("quantize", "demo", "--rule", "*.0.self_attn.k_proj*=q3_k", "--no-measure", "--calibrate")
    made = {}
    for name, more in (
        ("text", ("--text", "text.txt", "--calibration-tokens", "1024")),
        ("seed", ("--text", "text.txt", "--calibration-tokens", "1024", "--seed", "1")),
        ("few", ("--text", "text.txt", "--calibration-tokens", "512")),
    ):
        machine(*common[:2], f"{name}.gguf", *common[2:], *more)
        made[name] = (tmp_path / f"{name}.gguf").read_bytes()
    assert len(set(made.values())) == 3
