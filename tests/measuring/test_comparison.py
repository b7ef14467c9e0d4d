"""`measure` against itself, against transformers, and against the definitions over full logits."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

import tiny_models
from halfpint.calibration.text import Window
from halfpint.checkpoints import open_checkpoint
from halfpint.engine.decoder import Decoder
from halfpint.errors import UnsupportedError, UsageError
from halfpint.measuring import comparison
from halfpint.pipeline import verbs
from halfpint.pipeline.looking.measurement import held_out_windows
from halfpint.pipeline.options import MeasureOptions, QuantizeOptions

OPTIONS = MeasureOptions(tokens=600, window_tokens=100)
# Two float32 models of sharp distributions differ by so many nats without a reason; it counts for gemma2 only.
NOISE = 5e-8
FAMILIES = ("llama", "gemma2", "qwen3_moe")


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request, tmp_path_factory) -> Path:
    parent = tmp_path_factory.mktemp(request.param)
    tiny_models.save_tiny(request.param, parent / "model")
    return parent / "model"


@pytest.fixture(scope="module")
def quantized(folder) -> Path:
    options = QuantizeOptions(container="gguf", format="q4_0", calibrate=False, measure=None)
    return verbs.quantize(folder, folder.parent / "small.gguf", options).output


def windows_of(folder: Path) -> list[np.ndarray]:
    checkpoint = open_checkpoint(folder)
    windows = held_out_windows(checkpoint, OPTIONS)
    checkpoint.close()
    return [np.array(window.token_ids) for window in windows]


def log_likelihoods(model: torch.nn.Module, ids: np.ndarray) -> np.ndarray:
    """What a model says of tokens 1, 2, ... of a window: float64 [tokens - 1, vocabulary], natural logarithms."""
    with torch.no_grad():
        logits = model(torch.from_numpy(ids)[None]).logits[0, :-1].double()
    return torch.log_softmax(logits, dim=-1).numpy()


def by_transformers(folder: Path, decoded: Path | None = None) -> torch.nn.Module:
    """The folder's model, with the weights that our reader decodes from another checkpoint if one is given."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    if decoded is None:
        return model
    # In 32 bits throughout: embeddings would otherwise be rounded to 16.
    rules = ["re:embed_tokens|lm_head=f32"]
    plain = QuantizeOptions(container="huggingface", format="f32", rules=rules, measure=None)
    target = decoded.with_suffix("")
    if not target.exists():
        verbs.quantize(decoded, target, plain)
    return by_transformers(target)


def test_a_model_is_equal_to_itself(folder):
    quality = verbs.measure(folder, folder, OPTIONS).quality
    assert quality.kl_mean == quality.kl_max == quality.kl_mean_stderr == 0.0
    assert quality.top1_agreement == 1.0
    assert quality.perplexity == quality.reference_perplexity
    assert quality.perplexity_ratio == 1.0
    assert quality.tokens == sum(len(ids) - 1 for ids in windows_of(folder))


def test_perplexity_is_that_of_transformers(folder):
    model = by_transformers(folder)
    losses = [
        -np.take_along_axis(log_likelihoods(model, ids), ids[1:, None], axis=1)[:, 0] for ids in windows_of(folder)
    ]
    quality = verbs.measure(folder, folder, OPTIONS).quality
    assert quality.reference_perplexity == pytest.approx(np.exp(np.concatenate(losses).mean()), rel=1e-4)


def test_divergence_is_that_of_full_logits_by_transformers(folder, quantized):
    reference, candidate = by_transformers(folder), by_transformers(folder, quantized)
    divergences, agreements, losses = [], [], []
    for ids in windows_of(folder):
        p, q = log_likelihoods(reference, ids), log_likelihoods(candidate, ids)
        divergences.append((np.exp(p) * (p - q)).sum(axis=1))
        agreements.append(p.argmax(axis=1) == q.argmax(axis=1))
        losses.append(-np.take_along_axis(q, ids[1:, None], axis=1)[:, 0])
    kl = np.concatenate(divergences)
    quality = verbs.measure(quantized, folder, OPTIONS).quality
    assert quality.kl_mean == pytest.approx(kl.mean(), rel=1e-3, abs=NOISE)
    assert quality.kl_median == pytest.approx(np.median(kl), rel=1e-3, abs=NOISE)
    assert quality.kl_max == pytest.approx(kl.max(), rel=1e-3, abs=NOISE)
    assert quality.top1_agreement == pytest.approx(np.concatenate(agreements).mean(), abs=2 / len(kl))
    assert quality.perplexity == pytest.approx(np.exp(np.concatenate(losses).mean()), rel=1e-3)


def test_windows_of_all_lengths_are_scored_as_the_decoder_scores_each_alone(folder, quantized):
    """Batches of windows, one block in memory at a time, against whole models and one window at a time."""
    generator = np.random.default_rng(0)
    windows = [
        Window(f"source {number % 2}", tuple(generator.integers(0, tiny_models.VOCAB_SIZE, length).tolist()))
        for number, length in enumerate([40, 7, 40, 2, 23, 7, 40])
    ]
    candidate, reference = open_checkpoint(quantized), open_checkpoint(folder)
    steps = []
    readings = [comparison.read(checkpoint, windows, steps.append) for checkpoint in (candidate, reference)]
    tally = comparison.compare(*readings, windows)
    assert sum(steps) == comparison.steps(windows, candidate, reference)
    small, large = Decoder.load(candidate), Decoder.load(reference)
    divergences = []
    for window in windows:
        p, q = (
            torch.log_softmax(torch.from_numpy(decoder.forward(np.array(window.token_ids))[:-1]).double(), -1).numpy()
            for decoder in (large, small)
        )
        divergences.append((np.exp(p) * (p - q)).sum(axis=1))
    everything = tally.quality()
    assert everything.tokens == sum(len(window.token_ids) - 1 for window in windows)
    assert everything.kl_mean == pytest.approx(np.concatenate(divergences).mean(), rel=1e-3)
    for source in ("source 0", "source 1"):
        mine = [kl for kl, window in zip(divergences, windows, strict=True) if window.source == source]
        assert tally.quality(source).kl_mean == pytest.approx(np.concatenate(mine).mean(), rel=1e-3)
    candidate.close()
    reference.close()


def test_models_that_cannot_be_compared_are_told(tmp_path):
    tiny_models.save_tiny("llama", tmp_path / "one")
    tiny_models.save_tiny("llama", tmp_path / "other", vocab_size=336)
    with pytest.raises(UsageError, match="no two versions of one model"):
        verbs.measure(tmp_path / "one", tmp_path / "other", OPTIONS)
    config = tmp_path / "one" / "config.json"
    config.write_text(config.read_text().replace('"llama"', '"unheard_of"'))
    with pytest.raises(UnsupportedError, match="unheard_of"):
        verbs.measure(tmp_path / "one", tmp_path / "other", OPTIONS)
