from __future__ import annotations

import pytest

from halfpint.cli import common_options as options
from halfpint.errors import UsageError
from halfpint.pipeline.options import Gate


@pytest.mark.parametrize(
    ("container", "output", "engine", "expected"),
    [
        (None, "model.gguf", None, "gguf"),
        (None, "MODEL.GGUF", "llama.cpp", "gguf"),
        (None, "folder", "vllm", "compressed-tensors"),
        (None, "folder", "transformers", "compressed-tensors"),
        (None, "folder", "vllm-cpu", "compressed-tensors"),
        (None, "folder", "llama.cpp", "gguf"),
        (None, "folder", None, "gguf"),
        (None, None, "vllm", "compressed-tensors"),
        (None, None, None, "gguf"),
        ("compressed-tensors", "folder", None, "compressed-tensors"),
        ("gguf", "folder", "vllm", "gguf"),
    ],
)
def test_what_is_written_when_it_is_not_said(container, output, engine, expected):
    assert options.container_for(container, output, engine) == expected


def test_a_name_that_contradicts_the_container_is_refused():
    with pytest.raises(UsageError, match=r"model\.gguf is named as a GGUF file"):
        options.container_for("compressed-tensors", "model.gguf", None)


@pytest.mark.parametrize(
    ("container", "output", "words"),
    [
        (None, "model.safetensors", "named as one safetensors file"),
        ("gguf", "model.SAFETENSORS", "named as one safetensors file"),
        ("compressed-tensors", "model.safetensors", "named as one safetensors file"),
        (None, "small/", "named as a folder"),
        ("gguf", "small/", "named as a folder"),
    ],
)
def test_a_name_that_promises_something_else_is_refused(container, output, words):
    with pytest.raises(UsageError, match=words):
        options.container_for(container, output, None)


def test_a_folder_may_be_named_as_one():
    assert options.container_for("compressed-tensors", "small/", None) == "compressed-tensors"


@pytest.mark.parametrize("engine", ["vllm", "vllm-cpu", "transformers"])
def test_a_gguf_file_for_an_engine_of_folders_is_refused_with_advice(engine):
    with pytest.raises(UsageError, match="--to compressed-tensors"):
        options.container_for(None, "model.gguf", engine)


@pytest.mark.parametrize(("words", "value"), [("97%", 0.97), ("0.97", 0.97), ("100 %", 1.0), ("1", 1.0), ("0", 0.0)])
def test_fractions(words, value):
    assert options.fraction(None, None, words) == pytest.approx(value)


@pytest.mark.parametrize("asked", [{"max_kl": float("nan")}, {"max_kl": -1.0}, {"keep": float("nan")}, {"keep": 97.0}])
def test_a_gate_that_means_nothing_is_refused(asked):
    with pytest.raises(UsageError, match="--keep is from 0 to 1"):
        Gate(**asked)
