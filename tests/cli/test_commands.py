"""Every command for real: on the demo model, and on bad files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import save_file

import tiny_models
from halfpint.cli import main

MEASURE_KEYS = {
    "tokens",
    "kl_mean",
    "kl_mean_stderr",
    "kl_median",
    "kl_p99",
    "kl_p999",
    "kl_max",
    "top1_agreement",
    "top1_agreement_stderr",
    "perplexity",
    "reference_perplexity",
    "perplexity_ratio",
    "perplexity_ratio_stderr",
    "bytes",
    "bits_per_weight",
}
PLAN_KEYS = {"bytes", "bits_per_weight", "tensors", "engines", "forecast"}
WEIGHT = "model.layers.3.mlp.down_proj.weight"

# Enough text to go all the way, not enough to be good.
BRIEFLY = ("--calibration-tokens", "1024")


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    """`demo` is the embedded model only where nothing else is called so."""
    monkeypatch.chdir(tmp_path)


def run(*arguments, **settings):
    return CliRunner().invoke(main, [str(argument) for argument in arguments], **settings)


def machine(*arguments, exit_code=0):
    """The one JSON object of a command."""
    result = run(*arguments, "--json")
    assert result.exit_code == exit_code, result.stderr
    assert result.stderr == ""

    def refuse(word):
        raise AssertionError(f"{word} in JSON")

    return json.loads(result.stdout, parse_constant=refuse)


def card(*arguments, exit_code=0):
    """What a command prints for people."""
    result = run(*arguments)
    assert result.exit_code == exit_code, result.stderr
    assert "\x1b" not in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 100
    return result.stdout


def fails(*arguments, exit_code):
    """The one line of an error."""
    for more in ((), ("--json",)):
        result = run(*arguments, *more)
        assert result.exit_code == exit_code, result.output
        assert result.stdout == ""
        assert len(result.stderr.splitlines()) == 1
        assert result.stderr.startswith("halfpint: error: ")
    return result.stderr


def test_inspect_a_model():
    found = machine("inspect", "demo")
    assert {"family", "parameters", "bytes", "bytes_at", "tensors"} <= set(found)
    assert found["family"] == "llama"
    assert found["bytes_at"]["32"] == 4 * found["parameters"]
    assert sum(tensor["bytes"] for tensor in found["tensors"]) < found["bytes"]
    assert "8 layers" in card("inspect", "demo")
    assert WEIGHT not in card("inspect", "demo")
    assert WEIGHT in card("inspect", "demo", "--all")


def test_inspect_a_tensor():
    found = machine("inspect", "demo", WEIGHT, "--format", "q4_k", "--format", "nf4")
    assert found["shape"] == [256, 768]
    assert sum(found["histogram"]) == 256 * 768
    assert [rounding["format"] for rounding in found["roundings"]] == ["q4_k", "nf4"]
    assert "relative error" in card("inspect", "demo", WEIGHT)


def test_a_histogram_covers_numbers_that_are_far_from_zero():
    found = machine("inspect", "demo", "model.norm.weight")
    assert found["minimum"] <= found["low"] < found["high"] <= found["maximum"]
    assert max(found["histogram"]) < sum(found["histogram"]) / 2


def test_plan():
    found = machine("plan", "demo", "--bits", "4")
    assert set(found) >= PLAN_KEYS
    assert {"name", "format", "solver", "bytes", "rule"} <= set(found["tensors"][0])
    assert {"peak_memory_bytes", "seconds", "kl_mean"} <= set(found["forecast"])
    assert found["bits_per_weight"] == pytest.approx(8 * found["bytes"] / found["parameters"])
    assert "llama.cpp" in found["engines"]
    assert "Who can load it" in card("plan", "demo", "--format", "q4_k", "--all")


def test_plan_follows_rules_in_order():
    found = machine("plan", "demo", "--bits", "4", "--rule", "*down_proj*=q6_k", "--rule", r"re:layers\.3\.mlp=q8_0")
    formats = {tensor["name"]: tensor["format"] for tensor in found["tensors"]}
    assert formats["model.layers.2.mlp.down_proj.weight"] == "q6_k"
    assert formats[WEIGHT] == "q8_0"


def test_plan_for_an_engine_writes_what_it_loads():
    found = machine("plan", "demo", "--bits", "4", "--for", "vllm")
    assert found["container"] == "compressed-tensors"
    assert "vllm" in found["engines"]


@pytest.mark.parametrize(("output", "arguments"), [("demo.gguf", ()), ("demo-int4", ("--for", "vllm"))])
def test_quantize_without_a_comparison(output, arguments, tmp_path):
    planned = machine("plan", "demo", "--bits", "4", *arguments)
    found = machine("quantize", "demo", *BRIEFLY, output, "--bits", "4", "--no-measure", *arguments)
    assert PLAN_KEYS | {"seconds", "peak_memory_bytes", "output", "verdict", "quality"} <= set(found)
    assert found["verdict"] == "UNMEASURED"
    assert found["quality"] is None
    assert Path(found["output"]) == tmp_path / output
    assert found["bytes"] == planned["bytes"]
    assert 0.01 < max(tensor["relative_error"] for tensor in found["tensors"]) < 0.2
    assert machine("verify", output)["tensors"] == len(found["tensors"])
    assert machine("inspect", output)["bytes"] == found["bytes"]


def test_quantize_measures_and_passes_its_gate():
    found = machine(
        "quantize", "demo", *BRIEFLY, "a.gguf", "--bits", "8", "--tokens", "1024", "--keep", "80%", "--max-kl", "0.1"
    )
    assert found["verdict"] == "PASS"
    assert set(found["quality"]) >= MEASURE_KEYS
    again = machine("measure", "a.gguf", "--against", "demo", "--tokens", "1024")
    assert set(found["quality"]) == set(again)
    assert again["kl_mean"] == pytest.approx(found["quality"]["kl_mean"])


def test_a_failed_gate_is_exit_code_1_and_keeps_the_output(tmp_path):
    told = card("quantize", "demo", *BRIEFLY, "a.gguf", "--bits", "2", "--tokens", "512", "--keep", "100%", exit_code=1)
    assert "FAIL  " in told
    assert (tmp_path / "a.gguf").is_file()


def test_a_dry_run_writes_nothing(tmp_path):
    assert machine("quantize", "demo", "a.gguf", "--bits", "4", "--dry-run") == machine("plan", "demo", "--bits", "4")
    assert "nothing is written" in card("quantize", "demo", "a.gguf", "--bits", "4", "--dry-run")
    assert list(tmp_path.iterdir()) == []


def test_measure_on_a_text_of_ones_own(tmp_path):
    (tmp_path / "text.txt").write_text("The captain said nothing, and the ship went on. " * 40, encoding="utf-8")
    found = machine("measure", "demo", "--against", "demo", "--text", "text.txt", "--tokens", "300")
    assert found["kl_mean"] == 0
    assert found["top1_agreement"] == 1
    told = run("measure", "demo", "--against", "demo", "--text", "text.txt", "--tokens", "300", "--markdown")
    assert told.stdout.startswith("## demo against demo\n")
    assert "KL divergence" in card("measure", "demo", "--against", "demo", "--text", "text.txt", "--tokens", "300")


def test_verify_says_what_it_saw():
    assert {"container", "family", "tensors", "bytes", "parameters", "notes"} <= set(machine("verify", "demo"))
    assert "holds together" in card("verify", "demo")


def test_logs_and_events_are_written(tmp_path):
    machine("quantize", "demo", *BRIEFLY, "a.gguf", "--bits", "4", "--no-measure", "--log", "log", "--events", "events")
    assert f"quantize {WEIGHT}" in (tmp_path / "log").read_text(encoding="utf-8")
    events = [json.loads(line) for line in (tmp_path / "events").read_text(encoding="utf-8").splitlines()]
    assert {"quantize", "verify"} <= {event.get("stage") for event in events}
    assert events[-1]["event"] == "finished"


@pytest.mark.parametrize("option", ["--log", "--events"])
def test_a_log_that_cannot_be_written_is_told_by_its_option(option):
    told = fails("quantize", "demo", "a.gguf", "--bits", "4", option, "missing/file", exit_code=2)
    assert f"{option} missing/file" in told
    assert not Path("a.gguf").exists()


def test_bad_paths():
    assert "does not exist" in fails("inspect", "missing", exit_code=3)
    assert "does not exist" in fails("verify", "missing.gguf", exit_code=3)
    assert "does not exist" in fails("plan", "missing", "--bits", "4", exit_code=3)


def test_a_file_that_is_no_checkpoint(tmp_path):
    (tmp_path / "a.gguf").write_bytes(b"GGUF" + bytes(100))
    fails("inspect", "a.gguf", exit_code=3)
    (tmp_path / "a.bin").write_bytes(b"\x80\x02}")
    fails("inspect", "a.bin", exit_code=2)


def test_an_output_that_exists_is_refused(tmp_path):
    (tmp_path / "a.gguf").write_text("mine", encoding="utf-8")
    assert "exists" in fails("quantize", "demo", "a.gguf", "--bits", "4", exit_code=2)
    assert (tmp_path / "a.gguf").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("plan", "demo"), "say what you want"),
        (("plan", "demo", "--bits", "4", "--format", "q4_k"), "not both"),
        (("plan", "demo", "--format", "q9_z"), "no format 'q9_z'"),
        (("plan", "demo", "--rule", "*down_proj*"), "not PATTERN=FORMAT"),
        (("plan", "demo", "--bits", "4", "--rule", "*dwon*=q6_k"), "matches no tensor"),
        (("plan", "demo", "--bits", "4", "--rule", "re:(=q6_k"), "no regular expression"),
        (("plan", "demo", "--format", "int4-g64"), "gguf"),
        (("plan", "demo", "--bits", "4", "--to", "gguf", "--for", "vllm"), "vllm cannot load this"),
        (("quantize", "demo", "a.gguf", "--bits", "4", "--no-measure", "--keep", "97%"), "--no-measure"),
        (("quantize", "demo", "a.gguf", "--bits", "4", "--to", "compressed-tensors"), "GGUF"),
        (("inspect", "demo", "model.nothing"), "no tensor 'model.nothing'"),
        (("inspect", "demo", "--format", "q4_k"), "needs a TENSOR"),
        (("measure", "demo", "--against", "demo", "--markdown", "--json"), "not both"),
    ],
)
def test_requests_that_make_no_sense(arguments, words):
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert words.lower() in result.stderr.lower()
    assert result.stdout == ""


def test_a_weight_that_is_not_finite_is_named(tmp_path):
    weight = np.ones((64, 64), dtype=np.float32)
    weight[3, 5] = np.nan
    save_file({"layer.weight": weight}, tmp_path / "bad.safetensors")
    said = fails("verify", "bad.safetensors", exit_code=3)
    assert "layer.weight" in said
    quantize = ("quantize", "bad.safetensors", "out", "--format", "int8", "--to", "compressed-tensors", "--no-measure")
    assert "layer.weight" in fails(*quantize, exit_code=3)
    assert not (tmp_path / "out").exists()


def test_no_traceback_without_asking_and_the_same_exit_code_with_it():
    result = run("inspect", "missing", "--traceback")
    assert result.exit_code == 3
    assert "Traceback" in result.stderr


def test_a_verdict_of_one_window_says_that_its_doubt_is_unknown():
    found = machine("quantize", "demo", "out.gguf", "--format", "q8_0", "--no-calibrate", "--tokens", "1")
    assert found["verdict"] == "UNGATED"
    assert found["verdict_reason"].count("± unknown") == 2


@pytest.mark.parametrize(("fmt", "warned"), [("q8_0", False), ("q2_k", True), ("q3_k", True)])
def test_without_a_gate_there_is_no_pass_and_what_is_far_off_is_warned_of(fmt, warned):
    found = machine("quantize", "demo", f"{fmt}.gguf", "--format", fmt, "--no-calibrate", "--tokens", "512")
    assert found["verdict"] == "UNGATED"
    assert ("WARNING" in found["verdict_reason"]) == warned == (found["quality"]["top1_agreement"] < 0.9)


def test_a_format_that_does_not_fit_is_told_after_the_work_too(tmp_path):
    tiny_models.save_tiny("llama", tmp_path / "odd", hidden_size=96, intermediate_size=96)
    told = card("quantize", "odd", "odd.gguf", "--format", "q4_k", "--no-calibrate", "--no-measure")
    assert "96 columns do not divide into blocks of 256, as q4_k needs: iq4_nl instead" in " ".join(told.split())


def test_a_prompt_that_is_no_text_is_refused():
    told = fails("generate", "demo", "once \udcff upon", exit_code=2)
    assert "not UTF-8: after 5 characters comes the byte 0xff" in told
    result = run("chat", "demo", input=b"hello \xfe\n")
    assert (result.exit_code, "not UTF-8" in result.stderr) == (2, True)


def test_a_format_that_another_container_holds_is_told_with_it():
    assert "--to compressed-tensors" in fails("plan", "demo", "--format", "int4-g128", "--to", "gguf", exit_code=2)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no device that is always full")
def test_a_map_that_finds_no_room_costs_nothing_but_itself():
    result = run("quantize", "demo", "a.gguf", "--bits", "4", "--no-measure", "--no-calibrate", "--map", "/dev/full")
    assert result.exit_code == 4
    assert "/dev/full cannot be written: the disk is full" in result.stderr
    assert "bits per weight" in result.stdout
    assert Path("a.gguf").exists()
