"""From the words of Hugging Face's config.json to a checked `ModelConfig`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from halfpint.errors import CheckpointError, UnsupportedError
from halfpint.families.fields import Fields
from halfpint.families.record import Family, ModelConfig
from halfpint.families.rope import Dynamic
from halfpint.families.rope_config import read_ropes
from halfpint.families.table import FAMILIES

# Nothing larger has been built; a file that claims more is broken or hostile.
_MAX_VOCAB = 1 << 22
_MAX_WIDTH = 1 << 20
_MAX_LAYERS = 1 << 10
_MAX_HEADS = 1 << 12
_MAX_HEAD_DIM = 1 << 13
_MAX_POSITIONS = 1 << 31
_MAX_EXPERTS = 1 << 12

_ACTIVATIONS: Mapping[str, Literal["silu", "gelu_tanh"]] = {
    "silu": "silu",
    "swish": "silu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
}

# Keys that change what a model computes, in ways that are not implemented, with the values that change nothing.
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "is_encoder_decoder": (False,),
    "add_cross_attention": (False,),
    "use_bidirectional_attention": (False,),
    "mlp_only_layers": ([],),
    "decoder_sparse_step": (1,),
    "num_nextn_predict_layers": (0,),
    "embedding_multiplier": (1, 1.0),
    "residual_multiplier": (1, 1.0),
    "logits_scaling": (1, 1.0),
    "attention_multiplier": (),
    "clip_qkv": (),
    "alibi": (False,),
    "use_qk_norm": (False,),
    "qk_layernorm": (False,),
}


def find(config: Mapping[str, Any]) -> Family | None:
    """Family of a model by `model_type`, or by `architectures` when that is missing; None when it is not known."""
    kind = config.get("model_type")
    if isinstance(kind, str):
        return FAMILIES.get(kind)
    architectures = config.get("architectures")
    named = architectures if isinstance(architectures, list) else []
    return next((family for family in FAMILIES.values() if family.architecture in named), None)


def is_tied(config: Mapping[str, Any]) -> bool:
    """Whether the output head is the embedding, by config.json or, where it is silent, by the family's default."""
    family = find(config)
    default = False if family is None else family.defaults.get("tie_word_embeddings", False)
    return bool(config.get("tie_word_embeddings", default))


def read_config(config: Mapping[str, Any]) -> ModelConfig:
    """Check a configuration and put it into a record.

    Parameters
    ----------
    config : Mapping
        What config.json holds. Keys that it leaves out have the defaults of Hugging Face's class.

    Returns
    -------
    ModelConfig
        Every size is positive and bounded, heads divide, indices are in range.

    Raises
    ------
    CheckpointError
        If a value is missing or impossible; the message names the key.
    UnsupportedError
        If the family is unknown, or a key asks for something that is not implemented: it is never ignored.
    """
    family = find(config)
    if family is None:
        kind = config.get("model_type") or config.get("architectures")
        raise UnsupportedError(f"no model family {kind!r}; there are: {', '.join(FAMILIES)}")
    fields = Fields({**family.defaults, **config, "model_type": family.name})
    for key, neutral in _NEUTRAL.items():
        value = config.get(key)
        if value is not None and value not in neutral:
            raise UnsupportedError(f"{key} = {value!r} of the configuration is not implemented")
    return _build(family, fields)


def _build(family: Family, fields: Fields) -> ModelConfig:
    hidden_size = fields.integer("hidden_size", _MAX_WIDTH)
    layers = fields.integer("num_hidden_layers", _MAX_LAYERS)
    heads = fields.integer("num_attention_heads", _MAX_HEADS)
    kv_heads = fields.optional_integer("num_key_value_heads", _MAX_HEADS) or heads
    head_dim = fields.optional_integer("head_dim", _MAX_HEAD_DIM) or _divide(hidden_size, heads)
    if heads % kv_heads:
        raise CheckpointError(
            f"configuration: num_attention_heads = {heads} is no multiple of num_key_value_heads = {kv_heads}"
        )
    max_positions = fields.integer("max_position_embeddings", _MAX_POSITIONS)
    rope, sliding_rope = read_ropes(fields, head_dim, max_positions)
    if isinstance(rope.scaling, Dynamic):  # the word is of the original context
        max_positions = min(int(max_positions * rope.scaling.factor), _MAX_POSITIONS)
    window, sliding_layers, unrotated = _layers(family, fields, layers)
    is_gemma = family.activation_key == "hidden_activation"
    scalar = fields.number("query_pre_attn_scalar") if is_gemma else float(head_dim)
    experts, per_token, expert_size = _experts(family, fields)
    return ModelConfig(
        family=family.name,
        vocab_size=fields.integer("vocab_size", _MAX_VOCAB),
        hidden_size=hidden_size,
        intermediate_size=fields.integer("intermediate_size", _MAX_WIDTH),
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        max_positions=max_positions,
        norm_epsilon=fields.number("rms_norm_eps"),
        norm_offset=family.norm_offset,
        activation=_activation(family, fields),
        rope=rope,
        sliding_rope=sliding_rope,
        unrotated_layers=unrotated,
        sliding_window=window,
        sliding_layers=sliding_layers,
        query_scale=1.0 / math.sqrt(scalar),
        embedding_scale=math.sqrt(hidden_size) if family.scales_embeddings else 1.0,
        attention_softcap=fields.optional_number("attn_logit_softcapping") if is_gemma else 0.0,
        logit_softcap=fields.optional_number("final_logit_softcapping") if is_gemma else 0.0,
        tied_embeddings=fields.flag("tie_word_embeddings"),
        attention_bias=_attention_bias(family, fields),
        mlp_bias=_mlp_bias(family, fields),
        experts=experts,
        experts_per_token=per_token,
        expert_size=expert_size,
        normalize_expert_weights=experts > 0 and fields.flag("norm_topk_prob"),
        bos_ids=fields.token_ids("bos_token_id"),
        eos_ids=fields.token_ids("eos_token_id"),
    )


def _divide(hidden_size: int, heads: int) -> int:
    if hidden_size % heads:
        raise CheckpointError(
            f"configuration: hidden_size = {hidden_size} is no multiple of num_attention_heads = {heads}, "
            "and there is no head_dim"
        )
    return hidden_size // heads


def _activation(family: Family, fields: Fields) -> Literal["silu", "gelu_tanh"]:
    name = fields.text(family.activation_key)
    if name not in _ACTIVATIONS:
        raise UnsupportedError(
            f"{family.activation_key} = {name!r} of the configuration is not implemented; "
            f"there are: {', '.join(_ACTIVATIONS)}"
        )
    return _ACTIVATIONS[name]


def _attention_bias(family: Family, fields: Fields) -> Literal["none", "qkv", "all"]:
    if family.query_key_bias:
        return "qkv"
    if not fields.flag("attention_bias"):
        return "none"
    if any(row.name == "self_attn.qkv_proj.weight" for row in family.block) or family.name in ("mistral", "mixtral"):
        raise UnsupportedError(f"attention_bias = true of the configuration is not implemented for {family.name}")
    return "all"


def _mlp_bias(family: Family, fields: Fields) -> bool:
    has_bias = fields.flag("mlp_bias")
    if has_bias and family.name not in ("llama", "smollm3"):
        raise UnsupportedError(f"mlp_bias = true of the configuration is not implemented for {family.name}")
    return has_bias


def _experts(family: Family, fields: Fields) -> tuple[int, int, int]:
    if not any("{e}" in row.name for row in family.block):
        return 0, 0, 0
    key = "num_local_experts" if "num_local_experts" in fields.values else "num_experts"
    experts = fields.integer(key, _MAX_EXPERTS)
    per_token = fields.integer("num_experts_per_tok", experts)
    size_key = "moe_intermediate_size" if "moe_intermediate_size" in fields.values else "intermediate_size"
    return experts, per_token, fields.integer(size_key, _MAX_WIDTH)


def _layers(family: Family, fields: Fields, layers: int) -> tuple[int, frozenset[int], frozenset[int]]:
    """Window length, layers that have it, and layers without rotary positions."""
    unrotated = _unrotated_layers(fields, layers)
    window = fields.optional_integer("sliding_window", _MAX_POSITIONS) if family.window != "none" else 0
    if family.window == "listed" and not fields.flag("use_sliding_window", default=False):
        window = 0
    if not window:
        return 0, frozenset(), unrotated
    kinds = fields.values.get("layer_types")
    if kinds is not None and family.window != "all":
        sliding = _listed_layers(kinds, layers)
    elif family.window == "all":
        sliding = frozenset(range(layers))
    elif family.window == "listed":
        first = fields.values.get("max_window_layers")
        from_first = frozenset(range(first, layers)) if isinstance(first, int) else None
        sliding = unrotated if from_first is None else from_first
    else:
        period = 2 if family.window == "alternate" else fields.integer("sliding_window_pattern", _MAX_LAYERS)
        sliding = frozenset(layer for layer in range(layers) if (layer + 1) % period)
    return (window, sliding, unrotated) if sliding else (0, sliding, unrotated)


def _listed_layers(kinds: Any, layers: int) -> frozenset[int]:
    if not isinstance(kinds, list) or len(kinds) != layers:
        raise CheckpointError(f"configuration: layer_types must be a list of {layers} names")
    for kind in kinds:
        if kind not in ("sliding_attention", "full_attention"):
            raise UnsupportedError(f"layer_types holds {kind!r}; sliding_attention and full_attention are implemented")
    return frozenset(layer for layer, kind in enumerate(kinds) if kind == "sliding_attention")


def _unrotated_layers(fields: Fields, layers: int) -> frozenset[int]:
    if "no_rope_layer_interval" not in fields.values:
        return frozenset()
    listed = fields.values.get("no_rope_layers")
    if listed is None:
        interval = fields.integer("no_rope_layer_interval", _MAX_LAYERS)
        return frozenset(layer for layer in range(layers) if (layer + 1) % interval == 0)
    if not isinstance(listed, list) or len(listed) != layers or any(flag not in (0, 1) for flag in listed):
        raise CheckpointError(f"configuration: no_rope_layers must be a list of {layers} zeros and ones")
    return frozenset(layer for layer, rotated in enumerate(listed) if not rotated)
