"""A model's configuration in the words of GGUF metadata, both ways.

Facts from llama.cpp's converter (`conversion/*.py`) and loader (`src/llama-model.cpp`); where its loader assumes a
constant instead of reading a key, a configuration that differs is refused rather than written wrong.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from halfpint.errors import CheckpointError, UnsupportedError
from halfpint.families.config import read_config
from halfpint.families.fields import Fields
from halfpint.families.record import Family, ModelConfig
from halfpint.families.rope import Dynamic, LinearScaling, Llama3, LongRope, Rope, Scaling, Yarn, divisors
from halfpint.families.rope_config import magnitude, scaling_section
from halfpint.families.table import FAMILIES, GEMMA2, GEMMA3, LLAMA, MISTRAL, MIXTRAL, PHI3, SMOLLM3
from halfpint.tensors import Array, FloatArray

_MAX = 1 << 40

ROPE_FREQS = "rope_freqs.weight"
ROPE_LONG = "rope_factors_long.weight"
ROPE_SHORT = "rope_factors_short.weight"

_INTERLEAVED_ARCHITECTURES = ("llama", "smollm3")

# Layer counts by which llama.cpp recognises the 27B models, whose query scale is hidden_size / heads.
_LARGE_GEMMA_LAYERS = {"gemma2": 46, "gemma3": 62}

# The published Llama 3.1 and 3.2 scalings, tried when only their divisors are known.
_LLAMA3_SCALINGS = (Llama3(8.0, 1.0, 4.0, 8192), Llama3(32.0, 1.0, 4.0, 8192))

GgufValue = int | float | str | bool | list[int] | list[float] | list[bool] | list[str]


def gguf_metadata(config: Mapping[str, Any]) -> dict[str, GgufValue]:
    """Metadata that llama.cpp needs to load a model, the tokenizer's apart.

    Parameters
    ----------
    config : Mapping
        In Hugging Face's words.

    Returns
    -------
    dict
        Keys in full (`llama.block_count`), beginning with `general.architecture`. Integers are uint32 in the file,
        floats float32, lists arrays of them.

    Raises
    ------
    UnsupportedError
        If llama.cpp would compute another function than this configuration says.
    """
    model = read_config(config)
    family = FAMILIES[model.family]
    _refuse(model, family)
    keys: dict[str, GgufValue] = {
        "vocab_size": model.vocab_size,
        "context_length": model.max_positions,
        "embedding_length": model.hidden_size,
        "block_count": model.layers,
        "feed_forward_length": model.intermediate_size,
        "attention.head_count": model.heads,
        "attention.head_count_kv": model.kv_heads,
        "attention.key_length": model.head_dim,
        "attention.value_length": model.head_dim,
        "attention.layer_norm_rms_epsilon": model.norm_epsilon,
        "rope.dimension_count": model.rope.dimensions,
        "rope.freq_base": model.rope.theta,
    }
    if family is GEMMA3:
        keys["rope.freq_base_swa"] = model.sliding_rope.theta
    keys |= _rope_keys(model.rope.scaling) | _window_keys(model, family)
    if model.attention_softcap:
        keys["attn_logit_softcapping"] = model.attention_softcap
    if model.logit_softcap:
        keys["final_logit_softcapping"] = model.logit_softcap
    if model.experts:
        keys |= {"expert_count": model.experts, "expert_used_count": model.experts_per_token}
        if family is not MIXTRAL:
            keys["expert_feed_forward_length"] = model.expert_size
    if family is PHI3 and "rope.scaling.original_context_length" not in keys:
        keys["rope.scaling.original_context_length"] = model.max_positions
    architecture = family.gguf_architecture
    return {"general.architecture": architecture} | {f"{architecture}.{key}": value for key, value in keys.items()}


def _window_keys(model: ModelConfig, family: Family) -> dict[str, GgufValue]:
    if family is PHI3 or family is GEMMA2 or family is GEMMA3:
        return {"attention.sliding_window": model.sliding_window}
    if not model.sliding_window:
        return {}
    pattern = [layer in model.sliding_layers for layer in range(model.layers)]
    return {"attention.sliding_window": model.sliding_window, "attention.sliding_window_pattern": pattern}


def _rope_keys(scaling: Scaling) -> dict[str, GgufValue]:
    match scaling:
        case LinearScaling(factor):
            return {"rope.scaling.type": "linear", "rope.scaling.factor": factor}
        case Yarn():
            return {
                "rope.scaling.type": "yarn",
                "rope.scaling.factor": scaling.factor,
                "rope.scaling.original_context_length": scaling.original_positions,
                "rope.scaling.yarn_beta_fast": scaling.beta_fast,
                "rope.scaling.yarn_beta_slow": scaling.beta_slow,
            }
        case LongRope() if not _is_one_list(scaling):
            return {
                "rope.scaling.type": "longrope",
                "rope.scaling.original_context_length": scaling.original_positions,
                "rope.scaling.attn_factor": scaling.attention_factor,
            }
        case _:
            return {}


def _is_one_list(scaling: LongRope) -> bool:
    return scaling.short_factors == scaling.long_factors and scaling.attention_factor == 1.0


def gguf_tensors(config: Mapping[str, Any]) -> dict[str, FloatArray]:
    """Tensors that llama.cpp's files have beside the weights: float32 [rotated dimensions / 2] each.

    `rope_freqs.weight` holds what the frequencies are divided by (Llama 3); `rope_factors_long.weight` and
    `rope_factors_short.weight` those of LongRoPE (Phi-3). Empty for most models.
    """
    rope = read_config(config).rope
    match rope.scaling:
        case Llama3():
            return {ROPE_FREQS: divisors(rope, 0)}
        case LongRope() if _is_one_list(rope.scaling):
            return {ROPE_FREQS: divisors(rope, 0)}
        case LongRope(short_factors=short, long_factors=long):
            return {ROPE_LONG: np.array(long, np.float32), ROPE_SHORT: np.array(short, np.float32)}
        case _:
            return {}


def _refuse(model: ModelConfig, family: Family) -> None:
    """Raise where llama.cpp's loader assumes what this configuration does not say."""
    reason = _rope_reason(model, family) or _gemma_reason(model, family)
    if family is SMOLLM3:
        fourth = frozenset(layer for layer in range(model.layers) if (layer + 1) % 4 == 0)
        if model.unrotated_layers != fourth:
            reason = "llama.cpp leaves every fourth layer of SmolLM3 without positions, this model others"
    if (model.attention_bias == "all" or model.mlp_bias) and not family.gguf_biases:
        reason = f"llama.cpp reads no such biases for {family.gguf_architecture}"
    if model.experts and not model.normalize_expert_weights:
        reason = "llama.cpp scales the chosen experts' weights to sum to one, this model does not (norm_topk_prob)"
    if reason:
        raise UnsupportedError(f"GGUF cannot say this: {reason}; choose another container")


def _rope_reason(model: ModelConfig, family: Family) -> str:
    scaling = model.rope.scaling
    if isinstance(scaling, Llama3) and family.gguf_architecture not in _INTERLEAVED_ARCHITECTURES:
        return f"llama.cpp has no llama3 rope scaling for {family.gguf_architecture}"
    if isinstance(scaling, Yarn):
        standard = math.isclose(scaling.attention_factor, magnitude(scaling.factor), rel_tol=1e-6)
        if not standard or not scaling.truncate:
            return "llama.cpp has YaRN's standard attention_factor and truncate only"
    if isinstance(scaling, LongRope) and not _is_one_list(scaling) and family is not PHI3:
        return f"llama.cpp has no longrope scaling for {family.gguf_architecture}"
    if isinstance(scaling, Dynamic):
        return "llama.cpp has no rope whose base grows with the text (dynamic)"
    return ""


def _gemma_reason(model: ModelConfig, family: Family) -> str:
    if family is not GEMMA2 and family is not GEMMA3:
        return ""
    if family is GEMMA3 and (model.attention_softcap or model.sliding_rope.scaling is not None):
        return "llama.cpp has no attention softcap and no local rope scaling for gemma3"
    if family is GEMMA2 and not model.tied_embeddings:
        return "llama.cpp takes Gemma 2's head from its embedding"
    if family is GEMMA2 and not (model.attention_softcap and model.logit_softcap):
        return "llama.cpp always caps Gemma 2's logits"
    expected = _gemma_scalar(family, model.layers, model.hidden_size, model.heads, model.head_dim)
    if not math.isclose(model.query_scale, 1 / math.sqrt(expected), rel_tol=1e-6):
        return f"llama.cpp takes query_pre_attn_scalar = {expected} for this size"
    period = _period(family)
    if model.sliding_layers != frozenset(layer for layer in range(model.layers) if (layer + 1) % period):
        return f"llama.cpp has a full layer after every {period - 1} sliding ones in {family.gguf_architecture}"
    return ""


def _period(family: Family) -> int:
    return 2 if family is GEMMA2 else 6


def _gemma_scalar(family: Family, layers: int, hidden_size: int, heads: int, head_dim: int) -> int:
    return hidden_size // heads if layers == _LARGE_GEMMA_LAYERS[family.gguf_architecture] else head_dim


def gguf_notes(config: Mapping[str, Any]) -> tuple[str, ...]:
    """What llama.cpp will do differently from this configuration, in words for the user; mostly empty."""
    model = read_config(config)
    family = FAMILIES[model.family]
    ignored = family is not GEMMA2 and family is not GEMMA3
    if ignored and 0 < model.sliding_window < model.max_positions:
        return (f"llama.cpp ignores the sliding window: beyond {model.sliding_window} tokens its results differ",)
    return ()


def by_gguf_metadata(metadata: Mapping[str, Any]) -> Family | None:
    """Family of a GGUF file; None when it is not known. `llama` covers Mistral and Mixtral too."""
    architecture = metadata.get("general.architecture")
    if architecture == LLAMA.gguf_architecture:
        if metadata.get("llama.expert_count"):
            return MIXTRAL
        return MISTRAL if metadata.get("llama.attention.sliding_window") else LLAMA
    return next((family for family in FAMILIES.values() if family.gguf_architecture == architecture), None)


def hf_config(
    metadata: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], factors: Mapping[str, Array]
) -> dict[str, Any]:
    """Configuration in Hugging Face's words, from GGUF metadata: the inverse of `gguf_metadata`.

    Parameters
    ----------
    metadata : Mapping
        Keys in full, values as plain Python (or NumPy) scalars and lists.
    shapes : Mapping of str to tuple of int
        Shapes of the file's tensors by llama.cpp's name, rows first. They tell the vocabulary, whether the head is
        tied, and which biases there are.
    factors : Mapping of str to Array
        Contents of those of `rope_freqs.weight`, `rope_factors_long.weight`, `rope_factors_short.weight` that the
        file has.

    Returns
    -------
    dict
        Accepted by `read_config`, and enough for config.json.

    Raises
    ------
    CheckpointError
        If a key is missing or impossible.
    UnsupportedError
        If the architecture is unknown.
    """
    family = by_gguf_metadata(metadata)
    if family is None:
        raise UnsupportedError(f"no model family for GGUF architecture {metadata.get('general.architecture')!r}")
    fields = _fields_of(family, metadata)
    if "token_embd.weight" not in shapes:
        raise CheckpointError("GGUF file: the tensor token_embd.weight is missing")
    hidden_size, heads = fields.integer("embedding_length", _MAX), fields.integer("attention.head_count", _MAX)
    head_dim = fields.optional_integer("attention.key_length", _MAX) or hidden_size // heads
    layers = fields.integer("block_count", _MAX)
    config: dict[str, Any] = {
        "architectures": [family.architecture],
        "model_type": family.name,
        "vocab_size": shapes["token_embd.weight"][0],
        "hidden_size": hidden_size,
        "intermediate_size": fields.integer("feed_forward_length", _MAX),
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": fields.optional_integer("attention.head_count_kv", _MAX) or heads,
        "head_dim": head_dim,
        "max_position_embeddings": fields.integer("context_length", _MAX),
        family.activation_key: family.defaults.get(family.activation_key),
        "rms_norm_eps": fields.number("attention.layer_norm_rms_epsilon"),
        "rope_theta": fields.optional_number("rope.freq_base") or 10000.0,
        "rope_scaling": scaling_section(_read_scaling(fields, head_dim, factors)),
        "tie_word_embeddings": "output.weight" not in shapes,
        "bos_token_id": _tidy(metadata.get("tokenizer.ggml.bos_token_id")),
        "eos_token_id": _tidy(metadata.get("tokenizer.ggml.eos_token_id")),
    }
    config |= _family_keys(family, fields, config) | _bias_keys(family, shapes)
    return config


def _fields_of(family: Family, metadata: Mapping[str, Any]) -> Fields:
    """Keys of the family's architecture, without its name before them."""
    prefix = family.gguf_architecture + "."
    own = {key.removeprefix(prefix): _tidy(value) for key, value in metadata.items() if key.startswith(prefix)}
    return Fields(own, "GGUF metadata")


def _family_keys(family: Family, fields: Fields, config: Mapping[str, Any]) -> dict[str, Any]:
    """Keys that only some families have."""
    keys = _window_words(family, fields, config["num_hidden_layers"])
    if family is PHI3:
        rotated = fields.optional_integer("rope.dimension_count", _MAX) or config["head_dim"]
        keys["partial_rotary_factor"] = rotated / config["head_dim"]
    if family is GEMMA2 or family is GEMMA3:
        layers, head_dim = config["num_hidden_layers"], config["head_dim"]
        scalar = _gemma_scalar(family, layers, config["hidden_size"], config["num_attention_heads"], head_dim)
        keys["query_pre_attn_scalar"] = scalar
        keys["attn_logit_softcapping"] = fields.optional_number("attn_logit_softcapping") or None
        keys["final_logit_softcapping"] = fields.optional_number("final_logit_softcapping") or None
    if family is GEMMA2:  # llama.cpp's own defaults
        keys["attn_logit_softcapping"] = keys["attn_logit_softcapping"] or 50.0
        keys["final_logit_softcapping"] = keys["final_logit_softcapping"] or 30.0
    if family is GEMMA3:
        keys["rope_local_base_freq"] = fields.optional_number("rope.freq_base_swa") or 10000.0
    if family is SMOLLM3:
        keys["no_rope_layer_interval"] = 4
    if any("{e}" in row.name for row in family.block):
        count_key = "num_local_experts" if family is MIXTRAL else "num_experts"
        keys[count_key] = fields.integer("expert_count", _MAX)
        keys["num_experts_per_tok"] = fields.integer("expert_used_count", _MAX)
        keys["norm_topk_prob"] = True
        if family is not MIXTRAL:
            keys["moe_intermediate_size"] = fields.integer("expert_feed_forward_length", _MAX)
    return keys


def _window_words(family: Family, fields: Fields, layers: int) -> dict[str, Any]:
    window = fields.values.get("attention.sliding_window") or None
    if family.window == "none":
        return {}
    if family is GEMMA2 or family is GEMMA3:
        period = _period(family)
        kinds = ["sliding_attention" if (layer + 1) % period else "full_attention" for layer in range(layers)]
        if window is None and family is GEMMA2:
            window = 4096  # llama.cpp's default
        return {"sliding_window": window, "layer_types": kinds}
    words: dict[str, Any] = {"sliding_window": window}
    if family.window == "listed":
        words["use_sliding_window"] = window is not None
        pattern = fields.values.get("attention.sliding_window_pattern")
        if window is not None and isinstance(pattern, list):
            words["layer_types"] = ["sliding_attention" if slides else "full_attention" for slides in pattern]
    return words


def _bias_keys(family: Family, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    if family.query_key_bias or not family.gguf_biases:
        return {}
    found = {name for name in ("attn_q", "attn_k", "attn_v", "attn_output") if f"blk.0.{name}.bias" in shapes}
    if found and len(found) < 4:
        raise UnsupportedError(f"GGUF file: {family.gguf_architecture} with biases of {sorted(found)} only")
    return {"attention_bias": bool(found), "mlp_bias": "blk.0.ffn_down.bias" in shapes}


def _read_scaling(fields: Fields, head_dim: int, factors: Mapping[str, Array]) -> Scaling:
    kind = fields.values.get("rope.scaling.type") or "none"
    original = fields.optional_integer("rope.scaling.original_context_length", _MAX)
    context = fields.integer("context_length", _MAX)
    if ROPE_FREQS in factors:
        return _from_divisors(fields, head_dim, factors[ROPE_FREQS])
    if ROPE_LONG in factors and ROPE_SHORT in factors:
        attention_factor = fields.optional_number("rope.scaling.attn_factor") or 1.0
        return LongRope(_listed(factors[ROPE_SHORT]), _listed(factors[ROPE_LONG]), original, attention_factor)
    match kind:
        case "none":
            return None
        case "linear":
            return LinearScaling(fields.number("rope.scaling.factor"))
        case "yarn":
            factor = fields.number("rope.scaling.factor")
            fast = fields.optional_number("rope.scaling.yarn_beta_fast") or 32.0
            slow = fields.optional_number("rope.scaling.yarn_beta_slow") or 1.0
            return Yarn(factor, original or context, fast, slow, magnitude(factor), truncate=True)
        case _:
            raise UnsupportedError(f"GGUF metadata: rope.scaling.type = {kind!r} is not implemented")


def _from_divisors(fields: Fields, head_dim: int, values: Array) -> Scaling:
    """Llama 3's scaling when the divisors are those of a published one; else a list that says the same."""
    theta = fields.optional_number("rope.freq_base") or 10000.0
    found = np.asarray(values, np.float32).reshape(-1)
    for scaling in _LLAMA3_SCALINGS:
        if found.size == head_dim // 2:
            expected = divisors(Rope(theta, head_dim, scaling), 0)
            if np.allclose(found, expected, rtol=1e-5, atol=0):
                return scaling
    return LongRope(_listed(found), _listed(found), fields.integer("context_length", _MAX), 1.0)


def _listed(values: Array) -> tuple[float, ...]:
    return tuple(float(str(value)) for value in np.asarray(values, np.float32).reshape(-1))


def _tidy(value: Any) -> Any:
    """Plain Python; floats as the shortest decimal of their float32, so that 1e-06 is not 9.999999974752427e-07."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and math.isfinite(value):
        single = np.float32(value)
        return float(str(single)) if math.isfinite(single) else value
    if isinstance(value, np.ndarray):
        return value.tolist()
    return value
