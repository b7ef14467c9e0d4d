"""Folders as people have them: prefixes of names, heads that are tied by config.json and stored all the same."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForCausalLM

import tiny_models
from halfpint import formats
from halfpint.checkpoints import CONTAINERS, open_checkpoint
from halfpint.engine.decoder import Decoder
from halfpint.pipeline import verbs
from halfpint.pipeline.options import QuantizeOptions
from halfpint.planning.planner import Wish, make_plan
from halfpint.plans import Rule

HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
IDS = np.arange(20) * 7 % tiny_models.VOCAB_SIZE
FAMILIES = ("llama", "gemma2", "qwen2", "phi3")


def tied_folder(family: str, path: Path, change) -> Path:
    """A tied model whose stored tensors are changed."""
    tiny_models.save_tiny(family, path, tie_word_embeddings=True)
    file = path / "model.safetensors"
    stored = load_file(file)
    stored.pop(HEAD, None)
    change(stored)
    save_file(stored, file, metadata={"format": "pt"})
    return path


def ours(path: Path) -> np.ndarray:
    return Decoder.load(open_checkpoint(path)).forward(IDS)


def theirs(path: Path) -> np.ndarray:
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    with torch.no_grad():
        return model(torch.from_numpy(IDS)[None]).logits[0].numpy()


def close(found: np.ndarray, expected: np.ndarray) -> bool:
    return bool(np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_head_with_values_of_its_own_is_untied_and_said(family: str, tmp_path: Path) -> None:
    def other_head(stored):
        stored[HEAD] = np.ascontiguousarray(stored[EMBEDDING][::-1]) * np.float32(1.5)

    path = tied_folder(family, tmp_path / "model", other_head)
    checkpoint = open_checkpoint(path)
    assert any(HEAD in note and "untied" in note for note in checkpoint.notes)
    # The same weights with a config.json that tells the truth.
    honest = tmp_path / "honest"
    honest.mkdir()
    config = json.loads((path / "config.json").read_text()) | {"tie_word_embeddings": False}
    (honest / "config.json").write_text(json.dumps(config))
    (honest / "model.safetensors").symlink_to(path / "model.safetensors")
    expected = theirs(honest)
    assert close(ours(path), expected)
    # llama.cpp takes Gemma's head from the embedding, so GGUF refuses an untied one.
    names = [name for name in CONTAINERS if (family, name) != ("gemma2", "gguf")]
    for container in map(CONTAINERS.get, names):
        plan = make_plan(checkpoint, container, Wish(rules=(Rule("*", formats.by_name("f32")),)))
        assert HEAD in {tensor.name for tensor in plan.tensors}
        assert any("untied" in note for note in plan.notes)
    for name in set(names) - {"compressed-tensors"}:
        out = verbs.quantize(
            path,
            tmp_path / f"out.{name}",
            QuantizeOptions(container=name, rules=("*=f32",), calibrate=False, measure=None),
        ).output
        assert close(ours(out), expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_head_that_repeats_the_embedding_is_left_out_and_said(family: str, tmp_path: Path) -> None:
    path = tied_folder(family, tmp_path / "model", lambda stored: stored.update({HEAD: stored[EMBEDDING].copy()}))
    checkpoint = open_checkpoint(path)
    assert checkpoint.notes == ()
    plan = make_plan(checkpoint, CONTAINERS["gguf"], Wish(bits=8))
    assert [name for name, _ in plan.dropped] == [HEAD]
    assert close(ours(path), theirs(path))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tied_model_that_stores_the_head_alone_loads_as_in_transformers(family: str, tmp_path: Path) -> None:
    path = tied_folder(family, tmp_path / "model", lambda stored: stored.update({HEAD: stored.pop(EMBEDDING)}))
    assert close(ours(path), theirs(path))
    verbs.verify(path)
    out = verbs.quantize(path, tmp_path / "out.gguf", QuantizeOptions(bits=8, calibrate=False, measure=None)).output
    assert np.isfinite(ours(out)).all()


@pytest.mark.parametrize("family", ["gemma2", "gemma3_text"])
@pytest.mark.parametrize("stored_as", ["other", "equal", "alone"])
def test_a_family_that_ties_by_default_ties_without_the_word(family: str, stored_as: str, tmp_path: Path) -> None:
    def change(stored):
        if stored_as == "alone":
            stored[HEAD] = stored.pop(EMBEDDING)
        else:
            stored[HEAD] = stored[EMBEDDING] * np.float32(3 if stored_as == "other" else 1)

    path = tied_folder(family, tmp_path / "silent", change)
    config = json.loads((path / "config.json").read_text())
    config.pop("tie_word_embeddings", None)
    (path / "config.json").write_text(json.dumps(config))
    spoken = tmp_path / "spoken"
    spoken.mkdir()
    (spoken / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    (spoken / "model.safetensors").symlink_to(path / "model.safetensors")
    silent, told = open_checkpoint(path), open_checkpoint(spoken)
    assert silent.notes == told.notes
    assert any("untied" in note for note in silent.notes) == (stored_as == "other")
    wish = Wish(rules=(Rule("*", formats.by_name("f32")),))
    plan = make_plan(silent, CONTAINERS["huggingface"], wish)
    assert [name for name, _ in plan.dropped] == ([HEAD] if stored_as == "equal" else [])
    assert (HEAD in {tensor.name for tensor in plan.tensors}) == (stored_as == "other")
    assert np.array_equal(ours(path), ours(spoken))


@pytest.mark.parametrize("embedding", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("head", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("factor", [1, 2])
def test_a_head_is_tied_by_its_values_whatever_its_dtype(embedding, head, factor: int, tmp_path: Path) -> None:
    def change(stored):
        numbers = stored[EMBEDDING].astype(np.float16)  # which every one of these dtypes holds
        stored |= {EMBEDDING: numbers.astype(embedding), HEAD: (numbers * np.float16(factor)).astype(head)}

    checkpoint = open_checkpoint(tied_folder("llama", tmp_path, change))
    assert any("untied" in note for note in checkpoint.notes) == (factor == 2)
    plan = make_plan(checkpoint, CONTAINERS["gguf"], Wish(bits=8))
    assert (HEAD in dict(plan.dropped)) == (factor == 1)


@pytest.mark.parametrize("family", ["llama", "mixtral", "gemma3_text"])
@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "module._orig_mod.", "base_model.model.", "-model."])
def test_prefixes_of_wrappers_are_read_as_the_familys_names(family: str, prefix: str, tmp_path: Path) -> None:
    tiny_models.save_tiny(family, tmp_path)
    expected = ours(tmp_path)
    names = set(open_checkpoint(tmp_path).tensors)
    file = tmp_path / "model.safetensors"
    stored = load_file(file)
    if prefix == "-model.":
        stored = {name.removeprefix("model."): array for name, array in stored.items()}
    else:
        stored = {prefix + name: array for name, array in stored.items()}
    save_file(stored, file)
    checkpoint = open_checkpoint(tmp_path)
    assert set(checkpoint.tensors) == names
    assert len(checkpoint.notes) == 1
    assert np.array_equal(ours(tmp_path), expected)


def test_names_that_fit_no_family_are_left_alone(tmp_path: Path) -> None:
    tiny_models.save_tiny("llama", tmp_path)
    file = tmp_path / "model.safetensors"
    stored = load_file(file)
    stored["other." + EMBEDDING] = stored.pop(EMBEDDING)
    save_file(stored, file)
    assert set(open_checkpoint(tmp_path).tensors) == set(stored)
