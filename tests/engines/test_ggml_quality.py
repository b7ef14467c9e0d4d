"""Our GGUF encoders against llama.cpp's own: weighted squared errors of every type, and who decodes what."""

from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from engines.llama_cpp import LlamaCpp
from halfpint import kernels
from halfpint.formats import ggml

pytestmark = pytest.mark.engine

STORIES = Path(__file__).parents[3] / "shared" / "models" / "stories260K" / "model.safetensors"


def made_weights(kind: str) -> np.ndarray:
    rng = np.random.default_rng(8)
    shape = (48, 512)
    if kind == "normal":
        return rng.standard_normal(shape, np.float32) * np.float32(0.02)
    if kind == "heavy tails":
        return (rng.standard_t(4, shape) * 0.02).astype(np.float32)
    return (rng.standard_normal(shape) * np.exp(rng.standard_normal(512) / 2)).astype(np.float32)


def trained_weights() -> np.ndarray:
    """Rows of 64 or 172 columns joined to rows of 512: real weights, though not real rows."""
    if not STORIES.exists():
        pytest.skip(f"no {STORIES.name} at {STORIES.parent}")
    with safe_open(STORIES, "numpy") as file:
        joined = np.concatenate([file.get_tensor(name).ravel() for name in file.keys() if "mlp" in name])  # noqa: SIM118
    return joined[: len(joined) // 512 * 512].astype(np.float32).reshape(-1, 512)[:64]


def importance_for(columns: int) -> np.ndarray:
    return np.exp(np.random.default_rng(9).standard_normal(columns)).astype(np.float32)


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "importance"])
@pytest.mark.parametrize("kind", ["normal", "heavy tails", "uneven columns", "trained"])
@pytest.mark.parametrize("fmt", ggml.FORMATS, ids=lambda fmt: fmt.name)
def test_the_error_is_below_that_of_llama_cpps_encoder(
    llama_cpp: LlamaCpp, fmt: ggml.GgmlBlocks, kind: str, weighted: bool
) -> None:
    weight = trained_weights() if kind == "trained" else made_weights(kind)
    importance = importance_for(weight.shape[1]) if weighted else None
    theirs = llama_cpp.quantize_rows(fmt.name.upper(), weight, importance)
    ours = kernels.encode(weight, fmt, importance).parts["blocks"].tobytes()
    factors = np.float64(1) if importance is None else importance.astype(np.float64)

    def error(data: bytes) -> float:
        decoded = llama_cpp.dequantize(fmt.name.upper(), data, weight.shape)
        return float((factors * (weight.astype(np.float64) - decoded) ** 2).sum())

    assert error(ours) < error(theirs)


@pytest.mark.parametrize("fmt", ggml.FORMATS, ids=lambda fmt: fmt.name)
def test_llama_cpp_decodes_our_blocks_to_our_numbers(llama_cpp: LlamaCpp, fmt: ggml.GgmlBlocks) -> None:
    weight = made_weights("heavy tails")
    weight[3] = np.abs(weight[3])  # blocks whose scales are negative in q2_k, q4_k and q5_k
    quantized = kernels.encode(weight, fmt)
    theirs = llama_cpp.dequantize(fmt.name.upper(), quantized.parts["blocks"].tobytes(), weight.shape)
    assert np.array_equal(theirs, kernels.decode(quantized))
