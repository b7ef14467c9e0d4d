"""What we write as compressed-tensors means the same to engines, and what compressed-tensors writes means it to us."""

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from engines.environment import engine_python
from engines.transformers_engine import TransformersEngine
from engines.vllm_engine import VllmEngine
from halfpint import formats
from halfpint.checkpoints import open_checkpoint, read_float32
from halfpint.checkpoints.checkpoint import OutputTensor
from halfpint.checkpoints.compressed_tensors import CompressedTensors
from halfpint.checkpoints.huggingface import HuggingFace
from tiny_models import save_tiny

pytestmark = pytest.mark.engine

TOKENS = np.arange(3, 43)

SYMMETRIC: Mapping[str, Mapping[str, str]] = {
    "4 bits": {"": "int4-g32"},
    "3 bits": {"": "int3-g32-bf16"},
    "8 bits": {"": "int8"},
    "5 bits in whole rows": {"": "int5-fp32"},
    "fp8": {"": "fp8"},
    "fp8 in blocks": {"": "fp8-block"},
    "mixed": {
        "down_proj": "int8-bf16",
        "layers.0.self_attn": "int6-g64",
        "layers.1.mlp": "int4-g32",
        "o_proj": "fp8",
        "": "int2-g16",
    },
    "only some": {"layers.1.mlp.down_proj": "int4-g64"},
}


def quantize(source: Path, out: Path, chosen: Mapping[str, str]) -> Path:
    """Write a folder; the first part of a name that is found in a module's decides its format."""
    checkpoint = open_checkpoint(source)
    container = CompressedTensors()
    outputs = []
    for name, spec in checkpoint.tensors.items():
        found = next((fmt for part, fmt in chosen.items() if part in name), None)
        tensor = OutputTensor(name, spec.shape, formats.by_name(found) if found else spec.format, spec.dtype)
        if container.refusal(tensor) is not None:
            tensor = OutputTensor(name, spec.shape, spec.format, spec.dtype)
        outputs.append(tensor)
    writer = container.create(out, checkpoint, outputs)
    for tensor in outputs:
        assert tensor.format is not None
        writer.write(
            tensor.name, 0, formats.encode(np.atleast_2d(read_float32(checkpoint, tensor.name)), tensor.format)
        )
    return writer.finish()


def widened(source: Path, out: Path) -> Path:
    """Write what our reader sees as plain float32."""
    checkpoint = open_checkpoint(source)
    f32 = formats.by_name("f32")
    outputs = [OutputTensor(name, spec.shape, f32, spec.dtype) for name, spec in checkpoint.tensors.items()]
    writer = HuggingFace().create(out, checkpoint, outputs)
    for tensor in outputs:
        writer.write(tensor.name, 0, read_float32(checkpoint, tensor.name))
    return writer.finish()


@pytest.mark.parametrize(("family", "case"), [*(("llama", case) for case in SYMMETRIC), ("qwen3", "mixed")])
def test_transformers_computes_exactly_what_we_read(
    transformers_engine: TransformersEngine, family: str, case: str, tmp_path: Path
) -> None:
    save_tiny(family, tmp_path / "model")
    quantized = quantize(tmp_path / "model", tmp_path / "out", SYMMETRIC[case])
    expected = transformers_engine.logits(widened(quantized, tmp_path / "wide"), TOKENS)
    assert np.array_equal(transformers_engine.logits(quantized, TOKENS), expected)


@pytest.mark.parametrize("fmt", ["int4-g32-asym-fp32", "int3-asym-fp32", "int8-g64-asym-fp32"])
def test_transformers_computes_exactly_what_we_read_with_zero_points(
    transformers_engine: TransformersEngine, fmt: str, tmp_path: Path
) -> None:
    # compressed-tensors 0.18 to 0.20 load zero points only when they widen them at once.
    save_tiny("llama", tmp_path / "model")
    quantized = quantize(tmp_path / "model", tmp_path / "out", {"": fmt})
    expected = transformers_engine.logits(widened(quantized, tmp_path / "wide"), TOKENS)
    assert np.array_equal(transformers_engine.logits(quantized, TOKENS, dequantize=True), expected)


@pytest.mark.slow
def test_vllm_runs_4_bits_packed_and_says_the_likelihoods_that_transformers_says(
    vllm_engine: VllmEngine, transformers_engine: TransformersEngine, tmp_path: Path
) -> None:
    save_tiny("llama", tmp_path / "model", dtype="bfloat16")
    chosen = {"layers.0.mlp": "int4-g64-asym-bf16", "layers.1.self_attn": "bf16", "": "int4-g32-bf16"}
    quantized = quantize(tmp_path / "model", tmp_path / "out", chosen)
    answer = vllm_engine.run(quantized, TOKENS, count=1, top=5)

    def log_probabilities(folder: Path, dtype: str) -> np.ndarray:
        logits = transformers_engine.logits(folder, TOKENS, dtype=dtype).astype(np.float64)
        all_of_them = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        return np.take_along_axis(all_of_them[: len(answer.top_ids)], answer.top_ids, axis=1)

    wide = widened(quantized, tmp_path / "wide")
    exact = log_probabilities(wide, "float32")
    error = np.abs(answer.top_log_probabilities - exact).mean()
    # vLLM computes in bfloat16: no farther from exact than transformers in bfloat16, and far from the original.
    assert error < 2 * np.abs(log_probabilities(wide, "bfloat16") - exact).mean()
    assert error < np.abs(log_probabilities(tmp_path / "model", "float32") - exact).mean() / 5
    packed = [line for line in answer.kernels if "WNA16" in line]
    plain = [line for line in answer.kernels if "UnquantizedLinear" in line]
    assert len(packed) == 6
    assert len(plain) == 2


THEIR_WRITER = """
import json, sys, torch
from safetensors.torch import save_file
from compressed_tensors.compressors.pack_quantized.base import PackedQuantizationCompressor as Compressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
torch.manual_seed(1)
for index, arguments in enumerate(json.loads(sys.argv[2])):
    scheme = QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**arguments))
    groups = 128 // arguments.get("group_size", 128)
    half = 1 << (arguments["num_bits"] - 1)
    state = {"weight": torch.randn(72, 128), "weight_scale": (torch.rand(72, groups) + 0.5) * 2 / half}
    if not arguments["symmetric"]:
        state["weight_zero_point"] = torch.randint(-half, half, (72, groups), dtype=torch.int8)
    packed = Compressor.compress(state, scheme)
    plain = Compressor.decompress({name: value.clone() for name, value in packed.items()}, scheme)["weight"]
    save_file({f"m.{name}": value.contiguous() for name, value in packed.items()}, f"{sys.argv[1]}/{index}.safetensors")
    save_file({"weight": plain.contiguous()}, f"{sys.argv[1]}/{index}-plain.safetensors")
"""


def test_what_compressed_tensors_writes_is_read(transformers_engine: TransformersEngine, tmp_path: Path) -> None:
    grid = [(4, True, 32), (4, False, 32), (3, False, 64), (8, True, 0), (6, False, 0), (2, True, 16)]
    schemes = [
        {"num_bits": bits, "type": "int", "symmetric": symmetric, "strategy": "group" if group else "channel"}
        | ({"group_size": group} if group else {})
        for bits, symmetric, group in grid
    ]
    command = [str(engine_python("transformers")), "-c", THEIR_WRITER, str(tmp_path), json.dumps(schemes)]
    subprocess.run(command, check=True, capture_output=True)
    for index, weights in enumerate(schemes):
        folder = tmp_path / str(index)
        folder.mkdir()
        (tmp_path / f"{index}.safetensors").rename(folder / "model.safetensors")
        section = {"quant_method": "compressed-tensors", "config_groups": {"a": {"targets": [], "weights": weights}}}
        (folder / "config.json").write_text(json.dumps({"quantization_config": section}))
        expected = read_float32(open_checkpoint(tmp_path / f"{index}-plain.safetensors"), "weight")
        assert np.array_equal(read_float32(open_checkpoint(folder), "m.weight"), expected)
