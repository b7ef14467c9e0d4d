"""Records made by hand: what the verbs would give for a 7-billion-parameter model, without one."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np

from halfpint.formats import by_name
from halfpint.measuring.metrics import Quality
from halfpint.pipeline.looking.inspection import Inspection, Rounding, TensorView
from halfpint.pipeline.results import (
    Baseline,
    DemoEntry,
    DemoResult,
    DoctorReport,
    Measurement,
    PlanResult,
    QuantizeResult,
    TensorOutcome,
    Trial,
    VerifyReport,
)
from halfpint.pipeline.running_results import BenchResult, BenchRow, Generated, Spread
from halfpint.planning.memory import MemoryNeed
from halfpint.plans import Plan, PlannedTensor
from halfpint.tensors import TensorSpec

LAYERS = 32

QUALITY = Quality(
    tokens=24576,
    kl_mean=0.012345,
    kl_mean_stderr=0.00042,
    kl_median=0.0051,
    kl_p99=0.12,
    kl_p999=0.61,
    kl_max=2.5,
    top1_agreement=0.9561,
    top1_agreement_stderr=0.0031,
    perplexity=6.2512,
    perplexity_stderr=0.21,
    reference_perplexity=6.1801,
    reference_perplexity_stderr=0.2,
    perplexity_ratio=1.0115,
    perplexity_ratio_stderr=0.0012,
)
ONE_WINDOW = Quality(100, 0.1, math.nan, 0.1, 1.0, 1.0, 1.0, 0.9, math.nan, 10, math.nan, 9, math.nan, 1.1, math.nan)


def specs() -> tuple[TensorSpec, ...]:
    shapes = {"self_attn.q_proj": (4096, 4096), "mlp.down_proj": (4096, 11008), "input_layernorm": (4096,)}
    made = [TensorSpec("model.embed_tokens.weight", (32000, 4096), "F16", 262144000, by_name("f16"))]
    for layer in range(LAYERS):
        for name, shape in shapes.items():
            nbytes = 2 * math.prod(shape)
            full_name = f"model.layers.{layer}.{name}.weight"
            made.append(TensorSpec(full_name, shape, "F16", nbytes, by_name("f16")))
    return tuple(made)


INSPECTION = Inspection(
    family="llama",
    container="huggingface",
    parameters=6738415616,
    nbytes=13476831232,
    bytes_at=MappingProxyType({"32": 26953662464, "16": 13476831232, "8": 7161089216, "4": 3899000000}),
    tensors=specs(),
    config=MappingProxyType(
        {
            "model_type": "llama",
            "num_hidden_layers": 32,
            "hidden_size": 4096,
            "num_attention_heads": 32,
            "vocab_size": 32000,
            "max_position_embeddings": 4096,
        }
    ),
)


def bell(bars: int = 41) -> np.ndarray:
    return np.round(100000 * np.exp(-(np.linspace(-3, 3, bars) ** 2))).astype(np.int64)


TENSOR_VIEW = TensorView(
    spec=INSPECTION.tensors[1],
    minimum=-0.51,
    maximum=0.73,
    mean=1.2e-5,
    deviation=0.021,
    kurtosis=4.4,
    zeros=0.0001,
    sampled_rows=4096,
    histogram=bell(),
    low=-0.105,
    high=0.105,
    example_at=tuple((0, column) for column in range(6)),
    examples=(0.0123, -0.0412, 0.0007, 0.0301, -0.0001, 0.0222),
    roundings=(
        Rounding("q8_0", 8.5, 0.0061, 0.00052, (0.0124, -0.0411, 0.0005, 0.0301, 0.0, 0.0222)),
        Rounding("q4_k", 4.5, 0.081, 0.0072, (0.0144, -0.0432, 0.0, 0.0288, 0.0, 0.0216)),
    ),
)


def planned_tensors() -> tuple[PlannedTensor, ...]:
    made = []
    for spec in specs():
        if "embed" in spec.name:
            made.append(PlannedTensor(spec.name, spec.shape, by_name("q6_k"), "nearest", "embedding: q6_k", "", 107e6))
        elif len(spec.shape) == 1:
            made.append(PlannedTensor(spec.name, spec.shape, None, "copy", "norms and routers are copied", "", 8192))
        else:
            note = "11008 columns do not divide" if ".7." in spec.name else ""
            fmt = by_name("iq4_nl" if note else "iq4_xs")
            nbytes = fmt.stored_bytes(*spec.shape)
            made.append(PlannedTensor(spec.name, spec.shape, fmt, "nearest", "linear: iq4_xs", note, nbytes))
    return tuple(made)


PLAN = Plan("gguf", planned_tensors(), (("lm_head.weight", "tied to the embedding"),), 3899000000, 6738415616)
PLANNED = PlanResult(
    plan=PLAN,
    original_bytes=13476831232,
    engines=("halfpint", "llama.cpp", "ollama"),
    refusals=MappingProxyType({"vllm": "reads Hugging Face folders", "transformers": "reads Hugging Face folders"}),
    peak_memory_bytes=342000000,
    seconds=337.0,
)
MEASUREMENT = Measurement(
    quality=QUALITY,
    by_source=MappingProxyType({"prose": QUALITY, "code": ONE_WINDOW}),
    nbytes=3899000000,
    reference_bytes=13476831232,
    bits_per_weight=4.63,
    seconds=612.0,
)


def outcomes() -> tuple[TensorOutcome, ...]:
    return tuple(
        TensorOutcome(tensor, 0.0 if tensor.format is None else 0.07 + 0.0001 * place, 0.5, ((0, 4096, 12345),))
        for place, tensor in enumerate(PLAN.tensors)
    )


QUANTIZED = QuantizeResult(
    planned=PLANNED,
    output=Path("llama.gguf"),
    tensors=outcomes(),
    seconds=950.0,
    peak_memory_bytes=512000000,
    verdict="PASS",
    verdict_reason="top-1 agreement 95.61% ± 0.31%, mean KL 0.01235 ± 0.00042",
    measurement=MEASUREMENT,
)
UNMEASURED = QuantizeResult(
    planned=PLANNED,
    output=Path("llama.gguf"),
    tensors=outcomes(),
    seconds=340.0,
    peak_memory_bytes=512000000,
    verdict="UNMEASURED",
    verdict_reason="written and read back; not compared with the original",
    measurement=None,
)
FITTED = replace(
    PLANNED,
    kl_mean=0.0091,
    memory=MemoryNeed("llama.cpp", 8192, 8000000000, 150000000, 1073741824, 318767104, 6457491072),
)
BUDGETED = replace(
    QUANTIZED, planned=FITTED, baseline=Baseline("--format q4_k", 3850000000, QUALITY, False), additivity=1.36
)
ALONE = replace(QUANTIZED, planned=FITTED, additivity=1.36)
SEARCHED = replace(
    QUANTIZED,
    planned=replace(PLANNED, kl_mean=0.0091),
    trials=tuple(Trial(size, QUALITY, size > 3800000000) for size in range(3300000000, 4100000000, 100000000)),
)
VERIFIED = VerifyReport("gguf", "llama", 291, 3899000000, 6738415616, ("two tensors are all zero",))
GENERATED = Generated(" in a small glass.", 6, 5, 210.4, 18.32, 512000000)
DEMO = DemoResult(
    prompt="It was a dark",
    parameters=6820096,
    original=DemoEntry("32-bit", 27285000, 32.0, QUALITY, 210.0, " and stormy night"),
    quantized=(
        DemoEntry("16-bit", 13645000, 16.0, QUALITY, 390.0, " and stormy night"),
        DemoEntry("4-bit", 3900000, 4.6, QUALITY, 1100.0, " and quiet house"),
    ),
    seconds=41.0,
)
BENCHED = BenchResult(
    version="0.1.0",
    numpy="2.4.0",
    processor="An Ordinary CPU @ 3.0 GHz",
    kernel="avx2",
    instruction="vpmaddubsw, 256 bits",
    threads=4,
    repeats=3,
    batch=4,
    weight_bytes=3899000000,
    weight_bytes_per_token=3750000000.0,
    operations_per_token=12950000000.0,
    load_seconds=4.2,
    peak_memory_bytes=4310000000,
    rows=tuple(
        BenchRow(
            prompt_tokens=prompt,
            tokens=128,
            prefill_tokens_per_second=Spread(48.7, 47.1, 49.0),
            decode_tokens_per_second=Spread(6.3, 5.7, 7.02),
            arithmetic_share=Spread(0.67, 0.64, 0.69),
            bandwidth_share=Spread(0.88, 0.85, 0.91),
            integer_peak=Spread(9.3e11, 9.1e11, 9.4e11),
            read_bandwidth=Spread(2.96e10, 2.9e10, 3.1e10),
        )
        for prompt in (128, 512)
    ),
)
DOCTOR = DoctorReport(
    version="0.1.0",
    python="3.11.9",
    platform="Linux-6.1-x86_64",
    processor="An Ordinary CPU @ 3.0 GHz",
    processors=4,
    memory_bytes=16000000000,
    available_memory_bytes=9000000000,
    cpu_features=("avx2", "fma"),
    kernel="avx2",
    kernels=("avx512   needs avx512f: not here", "avx2     in use", "portable always there"),
    native_formats=("q4_k", "q6_k"),
    read_bandwidth=2.1e10,
    packages=MappingProxyType({"numpy": "2.4.0"}),
)
