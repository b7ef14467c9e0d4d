"""The command line on models that are not the demo: another family with random weights, and one of no known family."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import save_file

from halfpint.cli import main
from tiny_models import save_tiny


def machine(*arguments):
    result = CliRunner().invoke(main, [*map(str, arguments), "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "qwen3"
    save_tiny("qwen3", folder, dtype="bfloat16")
    return folder


def test_another_family_from_plan_to_measure(tiny, tmp_path):
    assert machine("inspect", tiny)["family"] == "qwen3"
    planned = machine("plan", tiny, "--bits", "8", "--for", "llama.cpp")
    output = tmp_path / "tiny.gguf"
    made = machine("quantize", tiny, output, "--bits", "8", "--tokens", "512")
    assert made["bytes"] == planned["bytes"] == output.stat().st_size
    assert made["quality"]["top1_agreement"] > 0.8
    assert machine("generate", output, "kitchen", "--max-tokens", "3", "--temperature", "0")["generated_tokens"] <= 3


def test_a_model_without_a_chat_template_is_told_so_before_anything_is_typed(tiny):
    refused = CliRunner().invoke(main, ["chat", str(tiny)], input="")
    assert refused.exit_code == 2
    assert "halfpint generate" in refused.output
    assert "Write a message" not in refused.output


def test_two_models_are_refused_before_either_reads(tiny):
    refused = CliRunner().invoke(main, ["measure", str(tiny), "--against", "demo"])
    assert refused.exit_code == 2
    assert "no two versions of one model" in refused.output


def test_a_place_where_no_plan_can_be_is_told_before_anything_is_measured(tmp_path):
    refused = CliRunner().invoke(main, ["plan", "demo", "--bpw", "5", "--save", str(tmp_path / "none" / "plan.toml")])
    assert refused.exit_code == 2
    assert "folder that exists" in refused.output


def test_a_model_of_no_known_family_takes_the_tensor_path(tmp_path):
    weights = np.random.default_rng(0).standard_normal((64, 256)).astype(np.float32)
    save_file({"layers.0.fc.weight": weights, "layers.0.norm.weight": weights[0]}, tmp_path / "other.safetensors")
    source = tmp_path / "other.safetensors"
    assert machine("inspect", source)["family"] == ""
    arguments = ("--format", "int4-g64", "--to", "compressed-tensors")
    assert machine("plan", source, *arguments)["engines"] == []
    made = machine("quantize", source, tmp_path / "out", *arguments, "--no-measure")
    assert {tensor["format"] for tensor in made["tensors"]} >= {"int4-g64"}
    assert machine("verify", tmp_path / "out")["tensors"] == 2
