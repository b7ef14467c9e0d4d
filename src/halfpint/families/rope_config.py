"""Rotary embeddings from a configuration: `rope_theta` with `rope_scaling`, or the newer `rope_parameters`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from halfpint.errors import CheckpointError, UnsupportedError
from halfpint.families.fields import Fields
from halfpint.families.rope import Dynamic, LinearScaling, Llama3, LongRope, Rope, Scaling, Yarn

_MAX_POSITIONS = 1 << 31

_KNOWN_KEYS = frozenset(
    {
        "rope_type",
        "type",
        "rope_theta",
        "partial_rotary_factor",
        "factor",
        "original_max_position_embeddings",
        "low_freq_factor",
        "high_freq_factor",
        "beta_fast",
        "beta_slow",
        "attention_factor",
        "mscale",
        "mscale_all_dim",
        "truncate",
        "short_factor",
        "long_factor",
        "finetuned",
    }
)


def read_ropes(fields: Fields, head_dim: int, max_positions: int) -> tuple[Rope, Rope]:
    """Rotary embedding of layers in general, and of layers with a sliding window.

    Raises
    ------
    CheckpointError
        If a value is impossible.
    UnsupportedError
        If the kind of scaling, or a key of it, is not implemented.
    """
    # transformers lets a rope_scaling, which users add by hand, go before rope_parameters, whose theta is then lost.
    sections = fields.section("rope_scaling") or fields.section("rope_parameters")
    theta = fields.number("rope_theta")
    if isinstance(sections.get("full_attention"), Mapping):
        general = _read(Fields(sections["full_attention"]), fields, theta, head_dim, max_positions)
        sliding_section = Fields(sections).section("sliding_attention")
    else:
        general = _read(Fields(sections), fields, theta, head_dim, max_positions)
        sliding_section = {}
    if "rope_local_base_freq" not in fields.values:
        return general, general
    local_theta = fields.number("rope_local_base_freq")
    return general, _read(Fields(sliding_section), fields, local_theta, head_dim, max_positions)


def _read(section: Fields, fields: Fields, theta: float, head_dim: int, max_positions: int) -> Rope:
    unknown = sorted(set(section.values) - _KNOWN_KEYS)
    if unknown:
        raise UnsupportedError(f"{unknown[0]} in the rope parameters of the configuration is not implemented")
    if section.values.get("rope_theta") is not None:
        theta = section.number("rope_theta")
    dimensions = _dimensions(section, fields, head_dim)
    return Rope(theta, dimensions, _scaling(section, fields, dimensions, max_positions))


def _dimensions(section: Fields, fields: Fields, head_dim: int) -> int:
    holder = section if section.values.get("partial_rotary_factor") is not None else fields
    part = holder.optional_number("partial_rotary_factor") or 1.0
    # Only families that list the key in their defaults rotate a part; the others would ignore it in silence.
    if part != 1.0 and fields.values.get("model_type") != "phi3":
        raise UnsupportedError(f"partial_rotary_factor = {part} of the configuration is not implemented here")
    dimensions = int(head_dim * part)
    if dimensions < 2 or dimensions > head_dim or dimensions % 2:
        raise CheckpointError(
            f"configuration: {dimensions} rotated dimensions of head_dim = {head_dim} must be even, and at least 2"
        )
    return dimensions


def _scaling(section: Fields, fields: Fields, dimensions: int, max_positions: int) -> Scaling:
    kind = section.values.get("rope_type") or section.values.get("type") or "default"
    match kind:
        case "default":
            return None
        case "linear":
            return LinearScaling(section.number("factor"))
        case "llama3":
            low, high = section.number("low_freq_factor"), section.number("high_freq_factor")
            if low >= high:
                raise CheckpointError(f"configuration: low_freq_factor = {low} must be less than {high}")
            return Llama3(section.number("factor"), low, high, _original(section, fields, max_positions))
        case "yarn":
            return _yarn(section, _original(section, fields, max_positions), max_positions)
        case "dynamic":
            return Dynamic(section.number("factor"), max_positions)
        case "longrope" | "su":
            return _longrope(section, _original(section, fields, max_positions), dimensions, max_positions)
        case _:
            raise UnsupportedError(
                f"rope_type = {kind!r} of the configuration is not implemented; "
                "there are: default, linear, dynamic, llama3, yarn, longrope"
            )


def _original(section: Fields, fields: Fields, max_positions: int) -> int:
    key = "original_max_position_embeddings"
    return (
        section.optional_integer(key, _MAX_POSITIONS) or fields.optional_integer(key, _MAX_POSITIONS) or max_positions
    )


def _yarn(section: Fields, original: int, max_positions: int) -> Yarn:
    factor = section.optional_number("factor") or max_positions / original
    attention_factor = section.optional_number("attention_factor")
    if not attention_factor:
        numerator, denominator = section.optional_number("mscale"), section.optional_number("mscale_all_dim")
        if numerator and denominator:
            attention_factor = magnitude(factor, numerator) / magnitude(factor, denominator)
        else:
            attention_factor = magnitude(factor)
    return Yarn(
        factor=factor,
        original_positions=original,
        beta_fast=section.optional_number("beta_fast") or 32.0,
        beta_slow=section.optional_number("beta_slow") or 1.0,
        attention_factor=attention_factor,
        truncate=section.flag("truncate", default=True),
    )


def magnitude(factor: float, slope: float = 1.0) -> float:
    """YaRN's growth of the attention factor with the stretch of the context."""
    return 1.0 if factor <= 1 else 0.1 * slope * math.log(factor) + 1.0


def _longrope(section: Fields, original: int, dimensions: int, max_positions: int) -> LongRope:
    factor = section.optional_number("factor") or max_positions / original
    attention_factor = section.optional_number("attention_factor")
    if not attention_factor:
        growth = math.log(factor) / math.log(original) if factor > 1 and original > 1 else 0.0
        attention_factor = math.sqrt(1 + growth)
    return LongRope(
        short_factors=section.numbers("short_factor", dimensions // 2),
        long_factors=section.numbers("long_factor", dimensions // 2),
        original_positions=original,
        attention_factor=attention_factor,
    )


def scaling_section(scaling: Scaling) -> dict[str, Any] | None:
    """Give the words of `rope_scaling` that `read_ropes` reads back as the same scaling; None when there is none."""
    match scaling:
        case None:
            return None
        case LinearScaling(factor):
            return {"rope_type": "linear", "factor": factor}
        case Dynamic(factor, _):
            return {"rope_type": "dynamic", "factor": factor}
        case Llama3(factor, low, high, original):
            return {
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": low,
                "high_freq_factor": high,
                "original_max_position_embeddings": original,
            }
        case Yarn(factor, original, beta_fast, beta_slow, attention_factor, truncate):
            return {
                "rope_type": "yarn",
                "factor": factor,
                "original_max_position_embeddings": original,
                "beta_fast": beta_fast,
                "beta_slow": beta_slow,
                "attention_factor": attention_factor,
                "truncate": truncate,
            }
        case LongRope(short, long, original, attention_factor):
            return {
                "rope_type": "longrope",
                "short_factor": list(short),
                "long_factor": list(long),
                "original_max_position_embeddings": original,
                "attention_factor": attention_factor,
            }
