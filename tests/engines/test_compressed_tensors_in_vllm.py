"""vLLM runs our 4-bit folders packed, and finds likely what we find likely. Each test starts a process: 40 seconds."""

from pathlib import Path

import numpy as np
import pytest

import tiny_models
from engines import agreement
from engines.agreement import our_logits, quantized
from engines.process import EngineError
from engines.vllm_engine import VllmAnswer, VllmEngine
from halfpint.errors import UnsupportedError

pytestmark = [pytest.mark.engine, pytest.mark.slow]

COUNT = 12


def check(answer: VllmAnswer, path: Path, ids: np.ndarray, layers: int, bound: float) -> None:
    """Hold an answer against our engine: kernels, log-probabilities, and the tokens that were chosen.

    vLLM computes in bfloat16, which keeps 8 bits: a token counts as chosen alike when ours is behind the best by no
    more than the bound.
    """
    packed = [line for line in answer.kernels if "WNA16" in line]
    assert len(packed) == 4 * layers  # queries, keys and values are one product there, gate and up another
    assert all("CPUWNA16LinearKernel" in line for line in packed)
    logits = our_logits(path, np.concatenate([ids, answer.ids]))[:-1].astype(np.float64)
    ours = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    theirs = answer.top_log_probabilities
    assert np.abs(np.take_along_axis(ours, answer.top_ids, axis=1) - theirs).mean() < bound / 4
    assert np.abs(np.take_along_axis(ours, answer.top_ids, axis=1) - theirs).max() < bound
    continued = ours[len(ids) - 1 :]
    behind = continued.max(axis=1) - np.take_along_axis(continued, answer.ids[:, None], axis=1)[:, 0]
    assert behind.max() < bound
    clear = np.diff(np.sort(continued, axis=1)[:, -2:], axis=1)[:, 0] > bound
    assert clear.any()
    assert np.array_equal(answer.ids[clear], continued.argmax(axis=1)[clear])


def test_the_preset_of_4_bits_on_the_demo_model(vllm_engine: VllmEngine, tmp_path: Path) -> None:
    folder = agreement.trained_model("demo")
    path = quantized(folder, tmp_path / "out", "compressed-tensors", bits=4, engine="vllm-cpu")
    ids = agreement.text_windows(folder, 600)[0][:120]
    answer = vllm_engine.run(path, ids, count=COUNT, top=10)
    check(answer, path, ids, layers=8, bound=0.25)


def test_groups_of_128_on_another_family(vllm_engine: VllmEngine, tmp_path: Path) -> None:
    path = agreement.save_calm("qwen3", tmp_path / "model", dtype="bfloat16")
    path = quantized(path, tmp_path / "out", "compressed-tensors", format="int4-g128-bf16", engine="vllm-cpu")
    ids = agreement.IDS[:120]
    answer = vllm_engine.run(path, ids, count=COUNT, top=10)
    check(answer, path, ids, layers=tiny_models.build_tiny("qwen3").config.num_hidden_layers, bound=0.2)


@pytest.mark.parametrize("fmt", ["fp8", "int8-bf16"])
def test_8_bits_are_refused_because_they_do_not_load(fmt: str, vllm_engine: VllmEngine, tmp_path: Path) -> None:
    path = agreement.save_calm("qwen3", tmp_path / "model", dtype="bfloat16")
    with pytest.raises(UnsupportedError, match="vllm-cpu cannot load this"):
        quantized(path, tmp_path / "refused", "compressed-tensors", format=fmt, engine="vllm-cpu")
    path = quantized(path, tmp_path / "out", "compressed-tensors", format=fmt)
    with pytest.raises(EngineError, match="Failed to find a kernel"):
        vllm_engine.run(path, agreement.IDS[:20], count=2, top=2)
