"""llama.cpp computes from our GGUF files what we compute from them, and transformers from the folder before.

llama.cpp rounds activations to 8 bits before it multiplies them with quantized weights, so that its logits differ
by percents from the same weights in floating point. Our engine with the same rounding (`agreement.rounded_logits`)
comes nearer, though not to zero: an activation on the edge between two steps falls to either side, and changes all
after it. Some builds do not round on some processors (16-bit floats without instructions for them; products that go to
BLAS): these agree with floating point but for the order of sums, and which one a build does is for it to choose. With
the same blocks written out as floats both agree to 1e-4. Keys and values are F32.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import torch

import made_tokenizers
import tiny_models
from engines import agreement
from engines.agreement import IDS, our_logits, quantized
from engines.llama_cpp import LlamaCpp
from engines.transformers_engine import TransformersEngine
from halfpint.checkpoints import open_checkpoint
from halfpint.formats import ggml
from halfpint.pipeline import verbs
from halfpint.pipeline.options import MeasureOptions
from halfpint.tokenization import load_tokenizer

pytestmark = pytest.mark.engine

TRAINED = ("demo", "stories260K", "babyllama-105")
MIXTURES = {"mixtral", "qwen3_moe"}
# llama.cpp looks GELU up in a table of 16-bit floats; that is 1e-4 of the logits, and a step for many activations.
TABLED = {"gemma2", "gemma3_text"}

# What 8-bit activations may do to a tiny random model, relative to the logits: measured are up to 0.03; and how much
# of that the same rounding in our engine may leave: measured is up to two thirds. Medians over tokens, because in a
# mixture a nearly equal vote for two experts can go to the other one.
ROUNDING = 0.05
SAME_ROUNDING = 0.85
# Without any rounding of activations the order of sums is left: terms of a sum, at most 512 in these models, times eps.
UNROUNDED = 512 * float(np.finfo(np.float32).eps)


def same_products(found: np.ndarray, exact: np.ndarray, rounded: np.ndarray) -> bool:
    """Whether a build multiplies activations as they are, or rounded as we round them.

    Either way only the order of sums is left, up to the first token at which that order sends an activation to another
    step; tokens after it see that token, and are nearer to the same rounding than to none in the median.
    """
    without, alike = agreement.token_errors(found, exact), agreement.token_errors(found, rounded)
    if min(np.median(without), alike.min()) < UNROUNDED:
        return True
    return bool(np.median(alike) < SAME_ROUNDING * np.median(without))


@pytest.fixture(scope="session")
def calm(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One tiny model of every family."""
    parent = tmp_path_factory.mktemp("calm")
    return {family: agreement.save_calm(family, parent / family) for family in tiny_models.FAMILIES}


@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_plain_floats_of_every_family(family: str, llama_cpp: LlamaCpp, tmp_path: Path) -> None:
    """With the original weights of `build_tiny`, which make the most of every difference."""
    model = tiny_models.save_tiny(family, tmp_path / "model")
    path = quantized(tmp_path / "model", tmp_path / "model.gguf", format="f32")
    with torch.no_grad():
        expected = model(torch.tensor(IDS)[None]).logits[0].numpy()
    found = llama_cpp.logits(path, IDS)
    assert agreement.largest_error(found, expected) < (5e-4 if family in TABLED else 1e-4)
    assert agreement.largest_error(found, our_logits(path, IDS)) < (5e-4 if family in TABLED else 1e-4)
    assert agreement.largest_error(our_logits(path, IDS), expected) < 1e-4


@pytest.mark.parametrize("wish", [{"format": "q8_0"}, {"format": "q4_k"}, {"bits": 4}], ids=str)
@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_quantized_files_of_every_family(
    family: str, wish: dict[str, object], calm: dict[str, Path], llama_cpp: LlamaCpp, tmp_path: Path
) -> None:
    path = quantized(calm[family], tmp_path / "out.gguf", **wish)
    found = llama_cpp.logits(path, IDS)
    exact, rounded = our_logits(path, IDS), agreement.rounded_logits(path, IDS)
    assert np.median(agreement.token_errors(found, exact)) < ROUNDING
    if family not in TABLED:
        assert same_products(found, exact, rounded)
    if family not in MIXTURES:
        assert agreement.rms_error(found, exact) < ROUNDING
        agreement.check_likeliest(found, exact, margin=6 * np.sqrt(np.mean((found - exact) ** 2)))


@pytest.mark.parametrize("name", [*(fmt.name for fmt in ggml.FORMATS), "f16", "bf16"])
def test_every_type(name: str, calm: dict[str, Path], llama_cpp: LlamaCpp, tmp_path: Path) -> None:
    path = quantized(calm["llama"], tmp_path / "out.gguf", format=name)
    found = llama_cpp.logits(path, IDS)
    exact = our_logits(path, IDS)
    assert agreement.rms_error(found, exact) < {"f16": 1e-3, "bf16": 1e-2}.get(name, ROUNDING)
    if name not in ("q4_1", "q5_1"):  # see `agreement.rounded`
        assert same_products(found, exact, agreement.rounded_logits(path, IDS))


@pytest.mark.parametrize("wish", [{"format": "f32"}, {"format": "q8_0"}, {"bits": 4}, {"bits": 2}], ids=str)
@pytest.mark.parametrize("name", TRAINED)
def test_trained_models(name: str, wish: dict[str, object], llama_cpp: LlamaCpp, tmp_path: Path) -> None:
    """Rows of 64, 172 or 352 columns among them, which K types do not take."""
    folder = agreement.trained_model(name)
    path = quantized(folder, tmp_path / "out.gguf", **wish)
    ids = agreement.text_windows(folder, 600)[0]
    found, exact = llama_cpp.logits(path, ids), our_logits(path, ids)
    if wish.get("format") == "f32":
        assert agreement.largest_error(found, exact) < 1e-4
        assert agreement.largest_error(exact, our_logits(folder, ids)) < 1e-4
        return
    assert agreement.rms_error(found, exact) < ROUNDING
    agreement.check_likeliest(found, exact, margin=6 * np.sqrt(np.mean((found - exact) ** 2)))


@pytest.mark.parametrize("name", TRAINED)
def test_blocks_written_out_as_floats_run_as_we_run_the_blocks(name: str, llama_cpp: LlamaCpp, tmp_path: Path) -> None:
    """No rounding of activations is left then: the weights themselves are the same."""
    folder = agreement.trained_model(name)
    path = quantized(folder, tmp_path / "out.gguf", bits=4)
    decoded = quantized(path, tmp_path / "decoded.gguf", format="f32")
    ids = agreement.text_windows(folder, 600)[0]
    assert agreement.largest_error(llama_cpp.logits(decoded, ids), our_logits(path, ids)) < 1e-4


@pytest.mark.parametrize("name", TRAINED)
def test_perplexity_is_one_number(
    name: str, llama_cpp: LlamaCpp, transformers_engine: TransformersEngine, tmp_path: Path
) -> None:
    """Ours, by `measure`, and those of the logits of llama.cpp and transformers, on the same tokens."""
    folder = agreement.trained_model(name)
    path = quantized(folder, tmp_path / "out.gguf", format="f32")
    quality = verbs.measure(path, folder, MeasureOptions(tokens=600, window_tokens=200)).quality
    windows = agreement.text_windows(folder, 600)
    theirs = np.concatenate([agreement.losses(llama_cpp.logits(path, ids), ids) for ids in windows])
    others = np.concatenate([agreement.losses(transformers_engine.logits(folder, ids), ids) for ids in windows])
    assert quality.tokens == theirs.size
    assert quality.perplexity == pytest.approx(np.exp(theirs.mean()), rel=1e-4)
    assert quality.reference_perplexity == pytest.approx(np.exp(others.mean()), rel=1e-4)
    assert quality.kl_mean < 1e-8
    assert quality.top1_agreement == 1.0


@pytest.mark.parametrize("name", [*TRAINED, "tiny"])
def test_tokens_are_those_of_the_original_tokenizer(name: str, llama_cpp: LlamaCpp, tmp_path: Path) -> None:
    if name == "tiny":
        folder = tmp_path / "model"
        tiny_models.save_tiny("llama", folder)
    else:
        folder = agreement.trained_model(name)
    path = quantized(folder, tmp_path / "out.gguf", format="q8_0")
    original = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    checkpoint = open_checkpoint(path)
    ours = load_tokenizer(checkpoint)
    checkpoint.close()
    lines = [line for line in made_tokenizers.lines(60) + made_tokenizers.shared_lines(100) if line]
    if name == "babyllama-105":  # without byte tokens, llama.cpp stops the process at a character that is no token
        letters = set(json.loads(original.to_str())["model"]["vocab"]) | {" "}
        lines = [kept for line in lines if (kept := "".join(c for c in line if c in letters))]
    for line in lines:
        expected = original.encode(line).ids
        assert llama_cpp.tokenize(path, line, parse_special=True).tolist() == expected, line
        assert ours.encode(line) == expected, line


@pytest.mark.parametrize("name", ["phi3-tuned", "my-Phi-3"])
def test_a_folder_named_like_phi_3_loads(name: str, llama_cpp: LlamaCpp, tmp_path: Path) -> None:
    """llama.cpp looks for that model's special tokens in every file of this name."""
    folder = tmp_path / name
    folder.mkdir()
    shutil.copytree(agreement.trained_model("demo"), folder, dirs_exist_ok=True)
    path = quantized(folder, tmp_path / "out.gguf", format="q8_0")
    assert llama_cpp.n_vocab(path) == 2048


@pytest.mark.parametrize("wish", [{"format": "f32"}, {"format": "q8_0"}, {"bits": 4}], ids=str)
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_transformers_reads_our_gguf(
    family: str,
    wish: dict[str, object],
    calm: dict[str, Path],
    transformers_engine: TransformersEngine,
    tmp_path: Path,
) -> None:
    """It decodes the blocks to float32 and rounds no activations. (It takes every Qwen 3 to have heads of 128.)"""
    path = quantized(calm[family], tmp_path / "out.gguf", **wish)
    assert agreement.largest_error(transformers_engine.logits(path, IDS), our_logits(path, IDS)) < 1e-4
