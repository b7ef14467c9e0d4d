"""Which engine loads which output, as a table; each row was tried with the engine itself (tests/engines)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from halfpint import families
from halfpint.formats.affine import Affine
from halfpint.formats.float8 import Float8
from halfpint.formats.plain import Plain
from halfpint.plans import Plan


@dataclass(frozen=True, slots=True)
class Engine:
    """One engine: its name, and why it cannot load a plan's output (None when it can)."""

    name: str
    refusal: Callable[[Plan, Mapping[str, Any]], str | None]


def _known_family(config: Mapping[str, Any]) -> bool:
    return families.find(config) is not None


def _halfpint(_plan: Plan, config: Mapping[str, Any]) -> str | None:
    return None if _known_family(config) else "the model's family is not known"


def _llama_cpp(plan: Plan, config: Mapping[str, Any]) -> str | None:
    if plan.container != "gguf":
        return "reads GGUF only"
    return None if _known_family(config) else "the model's family is not known"


def _transformers(plan: Plan, config: Mapping[str, Any]) -> str | None:
    if plan.container not in ("compressed-tensors", "huggingface"):
        return "reads Hugging Face folders"
    asymmetric = [t.name for t in plan.tensors if isinstance(t.format, Affine) and not t.format.symmetric]
    if asymmetric:
        return (
            "it loads zero points with dequantize=True only; its default load fails in compressed-tensors 0.18 to 0.20 "
            f"({asymmetric[0]})"
        )
    experts = {t.format: t.name for t in plan.tensors if ".experts." in t.name}
    if plan.container == "compressed-tensors" and len(experts) > 1:
        # It says nothing, and computes with the scales of one format and the codes of another.
        return f"it reads all experts of a model in one format ({' and '.join(experts.values())} differ)"
    for fmt, name in experts.items():
        if isinstance(fmt, Float8) and fmt.block:
            return f"it reads experts in fp8 with scales of rows, not of blocks ({name})"
    return None if _known_family(config) else "the model's family is not known"


def _vllm(plan: Plan, config: Mapping[str, Any]) -> str | None:
    if plan.container not in ("compressed-tensors", "huggingface"):
        return "reads Hugging Face folders"
    for tensor in plan.tensors:
        fmt = tensor.format
        if isinstance(fmt, Affine) and fmt.bits not in (4, 8):
            return f"has kernels for 4 and 8 bits only ({tensor.name} has {fmt.bits})"
        if fmt is not None and not isinstance(fmt, Affine | Float8 | Plain):
            return f"{fmt.name} is not a compressed-tensors format it runs"
    return None if _known_family(config) else "the model's family is not known"


def _vllm_cpu(plan: Plan, config: Mapping[str, Any]) -> str | None:
    reason = _vllm(plan, config)
    if reason is not None:
        return reason
    for tensor in plan.tensors:
        fmt = tensor.format
        if isinstance(fmt, Float8):
            return f"it has no CPU kernel for fp8 weights with 16-bit activations ({tensor.name})"
        if isinstance(fmt, Affine) and (fmt.bits != 4 or fmt.group_size % 2 or tensor.shape[-1] % 32):
            return f"its CPU kernel takes 4-bit groups in multiples of 32 columns only ({tensor.name})"
    return None


ENGINES: tuple[Engine, ...] = (
    Engine("halfpint", _halfpint),
    Engine("llama.cpp", _llama_cpp),
    Engine("ollama", _llama_cpp),
    Engine("transformers", _transformers),
    Engine("vllm", _vllm),
    Engine("vllm-cpu", _vllm_cpu),
)


FOLDER_ENGINES = frozenset({"vllm", "vllm-cpu", "transformers"})
"""Engines that read folders, not GGUF files."""


def loaders(plan: Plan, config: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the engines that can load what the plan writes."""
    return tuple(engine.name for engine in ENGINES if engine.refusal(plan, config) is None)


def refusals(plan: Plan, config: Mapping[str, Any]) -> Mapping[str, str]:
    """Why each of the other engines cannot."""
    reasons = {engine.name: engine.refusal(plan, config) for engine in ENGINES}
    return {name: reason for name, reason in reasons.items() if reason is not None}
