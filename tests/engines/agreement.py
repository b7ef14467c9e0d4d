"""Our side of a comparison with another engine: what we write, what we compute from it, and how far apart two are."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tiny_models
from halfpint.checkpoints import open_checkpoint
from halfpint.engine.activation import rms_norm, softcap
from halfpint.engine.decoder import Decoder
from halfpint.engine.steps import Perform, Products
from halfpint.engine.weights import project
from halfpint.kernels.integer_linear import Activations
from halfpint.models.opening import demo_folder
from halfpint.pipeline import verbs
from halfpint.pipeline.looking.measurement import held_out_windows
from halfpint.pipeline.options import CalibrationOptions, MeasureOptions, QuantizeOptions
from halfpint.tensors import Format

TOKENS = 200
IDS = np.random.default_rng(0).integers(3, tiny_models.VOCAB_SIZE, TOKENS)
"""Random tokens for the tiny models, twelve times as many as their sliding windows hold."""


def save_calm(family: str, folder: Path, dtype: str = "float32") -> Path:
    """Save a tiny random model with rows of 256 columns or more, which K types need.

    Its weights keep the length of a vector. Those of `build_tiny` double it, and attention with twice as large
    queries and keys turns small differences into large ones from layer to layer: good for finding mistakes in full
    precision, bad for telling rounding from mistakes.
    """
    sizes = {"hidden_size": 256, "intermediate_size": 512}
    if family == "qwen3_moe":
        sizes["moe_intermediate_size"] = 256
    model = tiny_models.save_tiny(family, folder, **sizes)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "embed_tokens" not in name:
                parameter.mul_(0.5)
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    return folder


def quantized(source: Path, target: Path, container: str = "gguf", **wish: Any) -> Path:
    """Run the job, on little text and without its comparison at the end; return its output."""
    options = QuantizeOptions(container=container, measure=None, calibration=CalibrationOptions(tokens=1024), **wish)
    return verbs.quantize(source, target, options).output


def our_logits(path: Path, ids: np.ndarray) -> np.ndarray:
    """Logits of our engine for a checkpoint: float32 [tokens, vocabulary]."""
    checkpoint = open_checkpoint(path)
    try:
        return Decoder.load(checkpoint).forward(ids)
    finally:
        checkpoint.close()


def rms_error(found: np.ndarray, expected: np.ndarray) -> float:
    """Root-mean-square difference relative to the root mean square of what is expected."""
    return float(np.sqrt(np.mean((found - expected) ** 2) / np.mean(expected**2)))


def largest_error(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference relative to the largest value."""
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def losses(logits: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """-log p of tokens 1, 2, ..., each given all before it: float64 [tokens - 1]."""
    rows = logits[:-1].astype(np.float64)
    rows -= rows.max(axis=1, keepdims=True)
    chosen = np.take_along_axis(rows, np.asarray(ids)[1:, None], axis=1)[:, 0]
    return np.log(np.exp(rows).sum(axis=1)) - chosen


def check_likeliest(found: np.ndarray, expected: np.ndarray, margin: float) -> None:
    """Assert that the likeliest token is the same wherever it leads by more than `margin`, as it often must."""
    ordered = np.sort(expected, axis=1)
    clear = ordered[:, -1] - ordered[:, -2] > margin
    assert clear.mean() > 0.2
    assert np.array_equal(found.argmax(axis=1)[clear], expected.argmax(axis=1)[clear])


def rounded_logits(path: Path, ids: np.ndarray) -> np.ndarray:
    """Logits of our engine for a GGUF file, with activations rounded before each product as llama.cpp rounds them.

    What is left between the two is the order of sums, and numbers so near to the middle of two steps that this order
    sends them to different ones.

    Returns
    -------
    float32 [tokens, vocabulary]
    """
    checkpoint = open_checkpoint(path)
    try:
        decoder = Decoder.load(checkpoint)
        formats = {name: spec.format for name, spec in checkpoint.tensors.items()}
        hidden = decoder.ends.embed(np.asarray(ids)[None])
        for block in decoder.blocks:
            hidden = block.forward(hidden, perform=rounding(formats))
        normed = rms_norm(hidden[0], decoder.ends.final_norm, decoder.config.norm_epsilon)
        head = "model.embed_tokens.weight" if decoder.config.tied_embeddings else "lm_head.weight"
        return softcap(decoder.ends.output.forward(rounded(normed, formats[head])), decoder.config.logit_softcap)
    finally:
        checkpoint.close()


def rounding(formats: Mapping[str, Format | None]) -> Perform:
    """Products whose inputs are rounded first, as llama.cpp does for weights of these formats."""

    def perform(request: Products) -> list[np.ndarray]:
        return [
            project((projection,), Activations(rounded(request.x, formats[projection.name])))[0]
            for projection in request.projections
        ]

    return perform


def rounded(x: np.ndarray, fmt: Format | None) -> np.ndarray:
    """Round activations float32 [tokens, columns] as ggml does before it multiplies them with weights of a format.

    Each type names the type of its partner (`vec_dot_type` in ggml-cpu.c): Q8_0 for blocks of 32, Q8_K for blocks of
    256, itself for 16-bit floats. Q8_1, for blocks with a minimum, also keeps a rounded sum, which is left out here.
    """
    name = "f32" if fmt is None else fmt.name
    if name == "f32":
        return x
    if name == "f16":
        return x.astype(np.float16).astype(np.float32)
    if name == "bf16":
        return torch.from_numpy(x).bfloat16().float().numpy()
    return _eight_bits(x, 256 if name.endswith(("_k", "_xs")) else 32)


def _eight_bits(x: np.ndarray, block: int) -> np.ndarray:
    """Round to 127 steps either way of the largest in a block; Q8_0 keeps its scale in 16 bits, Q8_K in 32."""
    blocks = x.reshape(len(x), -1, block)
    largest = np.abs(blocks).max(axis=2, keepdims=True)
    inverse = np.where(largest > 0, np.float32(127) / np.maximum(largest, np.float32(1e-30)), np.float32(0))
    scale = largest / np.float32(127)
    if block == 32:
        scale = scale.astype(np.float16).astype(np.float32)
    return (np.rint(blocks * inverse) * scale).astype(np.float32).reshape(x.shape)


def token_errors(found: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Root-mean-square difference of every token, relative to the root mean square of all: [tokens]."""
    return np.sqrt(np.mean((found - expected) ** 2, axis=1) / np.mean(expected**2))


def trained_model(name: str) -> Path:
    """Folder of the embedded model (`demo`), or of one that lies beside the checkout; skips when it does not."""
    folder = demo_folder() if name == "demo" else Path(__file__).parents[3] / "shared" / "models" / name
    if not folder.is_dir():
        pytest.skip(f"no {name} at {folder.parent}")
    return folder


@cache
def text_windows(folder: Path, tokens: int) -> list[np.ndarray]:
    """The held-out text that `measure` takes for a model: windows of 200 token ids."""
    checkpoint = open_checkpoint(folder)
    try:
        windows = held_out_windows(checkpoint, MeasureOptions(tokens=tokens, window_tokens=200))
    finally:
        checkpoint.close()
    return [np.array(window.token_ids) for window in windows]
