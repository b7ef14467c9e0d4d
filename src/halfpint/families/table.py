"""The families we know, as rows: a new model is a record here and a fixture in the tests."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from halfpint.families.record import Family, Role, Row

_PRE_NORMS = (
    Row(Role.ATTENTION_INPUT_NORM, "input_layernorm.weight", "attn_norm.weight", ("hidden",)),
    Row(Role.MLP_INPUT_NORM, "post_attention_layernorm.weight", "ffn_norm.weight", ("hidden",)),
)
_FOUR_NORMS = (
    Row(Role.ATTENTION_INPUT_NORM, "input_layernorm.weight", "attn_norm.weight", ("hidden",)),
    Row(
        Role.ATTENTION_OUTPUT_NORM,
        "post_attention_layernorm.weight",
        "post_attention_norm.weight",
        ("hidden",),
    ),
    Row(Role.MLP_INPUT_NORM, "pre_feedforward_layernorm.weight", "ffn_norm.weight", ("hidden",)),
    Row(Role.MLP_OUTPUT_NORM, "post_feedforward_layernorm.weight", "post_ffw_norm.weight", ("hidden",)),
)
_POST_NORMS = (
    Row(
        Role.ATTENTION_OUTPUT_NORM,
        "post_attention_layernorm.weight",
        "post_attention_norm.weight",
        ("hidden",),
    ),
    Row(Role.MLP_OUTPUT_NORM, "post_feedforward_layernorm.weight", "post_ffw_norm.weight", ("hidden",)),
)
_ATTENTION = (
    Row(Role.ATTENTION_Q, "self_attn.q_proj.weight", "attn_q.weight", ("query", "hidden")),
    Row(Role.ATTENTION_K, "self_attn.k_proj.weight", "attn_k.weight", ("key", "hidden")),
    Row(Role.ATTENTION_V, "self_attn.v_proj.weight", "attn_v.weight", ("key", "hidden")),
    Row(Role.ATTENTION_OUTPUT, "self_attn.o_proj.weight", "attn_output.weight", ("hidden", "query")),
)
_FUSED_ATTENTION = (
    Row(Role.ATTENTION_QKV, "self_attn.qkv_proj.weight", "attn_qkv.weight", ("qkv", "hidden")),
    Row(Role.ATTENTION_OUTPUT, "self_attn.o_proj.weight", "attn_output.weight", ("hidden", "query")),
)
_HEAD_NORMS = (  # over each head
    Row(Role.QUERY_NORM, "self_attn.q_norm.weight", "attn_q_norm.weight", ("head_dim",)),
    Row(Role.KEY_NORM, "self_attn.k_norm.weight", "attn_k_norm.weight", ("head_dim",)),
)
_PROJECTION_NORMS = (  # over all heads together
    Row(Role.QUERY_NORM, "self_attn.q_norm.weight", "attn_q_norm.weight", ("query",)),
    Row(Role.KEY_NORM, "self_attn.k_norm.weight", "attn_k_norm.weight", ("key",)),
)
_MLP = (
    Row(Role.MLP_GATE, "mlp.gate_proj.weight", "ffn_gate.weight", ("mlp", "hidden")),
    Row(Role.MLP_UP, "mlp.up_proj.weight", "ffn_up.weight", ("mlp", "hidden")),
    Row(Role.MLP_DOWN, "mlp.down_proj.weight", "ffn_down.weight", ("hidden", "mlp")),
)
_FUSED_MLP = (  # the gate's rows come first, in both containers
    Row(Role.MLP_GATE_UP, "mlp.gate_up_proj.weight", "ffn_up.weight", ("gate_up", "hidden")),
    Row(Role.MLP_DOWN, "mlp.down_proj.weight", "ffn_down.weight", ("hidden", "mlp")),
)
_QWEN_EXPERTS = (
    Row(Role.ROUTER, "mlp.gate.weight", "ffn_gate_inp.weight", ("experts", "hidden")),
    Row(Role.EXPERT_GATE, "mlp.experts.{e}.gate_proj.weight", "ffn_gate_exps.weight", ("expert_mlp", "hidden")),
    Row(Role.EXPERT_UP, "mlp.experts.{e}.up_proj.weight", "ffn_up_exps.weight", ("expert_mlp", "hidden")),
    Row(Role.EXPERT_DOWN, "mlp.experts.{e}.down_proj.weight", "ffn_down_exps.weight", ("hidden", "expert_mlp")),
)
_MIXTRAL = "block_sparse_moe"
_MIXTRAL_EXPERTS = (
    Row(Role.ROUTER, f"{_MIXTRAL}.gate.weight", "ffn_gate_inp.weight", ("experts", "hidden")),
    Row(Role.EXPERT_GATE, f"{_MIXTRAL}.experts.{{e}}.w1.weight", "ffn_gate_exps.weight", ("expert_mlp", "hidden")),
    Row(Role.EXPERT_UP, f"{_MIXTRAL}.experts.{{e}}.w3.weight", "ffn_up_exps.weight", ("expert_mlp", "hidden")),
    Row(Role.EXPERT_DOWN, f"{_MIXTRAL}.experts.{{e}}.w2.weight", "ffn_down_exps.weight", ("hidden", "expert_mlp")),
)


def _defaults(**values: Any) -> Mapping[str, Any]:
    """What most Hugging Face configuration classes fill in, and what this one does differently."""
    common = {
        "num_key_value_heads": None,
        "head_dim": None,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": False,
        "attention_bias": False,
        "mlp_bias": False,
        "sliding_window": None,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    return MappingProxyType(common | values)


_GEMMA = {
    "hidden_activation": "gelu_pytorch_tanh",
    "tie_word_embeddings": True,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "bos_token_id": 2,
    "eos_token_id": 1,
}

LLAMA = Family(
    name="llama",
    architecture="LlamaForCausalLM",
    gguf_architecture="llama",
    block=(*_PRE_NORMS[:1], *_ATTENTION, *_PRE_NORMS[1:], *_MLP),
    defaults=_defaults(),
    interleaved=True,
    gguf_biases=True,
)
MISTRAL = Family(
    name="mistral",
    architecture="MistralForCausalLM",
    gguf_architecture="llama",
    block=LLAMA.block,
    defaults=_defaults(num_key_value_heads=8, max_position_embeddings=131072, sliding_window=4096),
    window="all",
    interleaved=True,
)
MIXTRAL = Family(
    name="mixtral",
    architecture="MixtralForCausalLM",
    gguf_architecture="llama",
    block=(*_PRE_NORMS[:1], *_ATTENTION, *_PRE_NORMS[1:], *_MIXTRAL_EXPERTS),
    defaults=_defaults(
        num_key_value_heads=8,
        max_position_embeddings=131072,
        rms_norm_eps=1e-5,
        rope_theta=1e6,
        num_experts_per_tok=2,
        num_local_experts=8,
        norm_topk_prob=True,
    ),
    window="all",
    interleaved=True,
)
QWEN2 = Family(
    name="qwen2",
    architecture="Qwen2ForCausalLM",
    gguf_architecture="qwen2",
    block=LLAMA.block,
    defaults=_defaults(max_position_embeddings=32768, sliding_window=4096, max_window_layers=28),
    query_key_bias=True,
    window="listed",
    gguf_biases=True,
)
QWEN3 = Family(
    name="qwen3",
    architecture="Qwen3ForCausalLM",
    gguf_architecture="qwen3",
    block=(*_PRE_NORMS[:1], *_ATTENTION, *_HEAD_NORMS, *_PRE_NORMS[1:], *_MLP),
    defaults=_defaults(head_dim=128, max_position_embeddings=32768, sliding_window=4096, max_window_layers=28),
    window="listed",
)
QWEN3_MOE = Family(
    name="qwen3_moe",
    architecture="Qwen3MoeForCausalLM",
    gguf_architecture="qwen3moe",
    block=(*_PRE_NORMS[:1], *_ATTENTION, *_HEAD_NORMS, *_PRE_NORMS[1:], *_QWEN_EXPERTS),
    defaults=_defaults(
        num_key_value_heads=4,
        max_position_embeddings=32768,
        sliding_window=4096,
        max_window_layers=0,  # its window, when used, is on every layer
        num_experts=128,
        num_experts_per_tok=8,
        moe_intermediate_size=768,
        norm_topk_prob=False,
    ),
    window="listed",
)
GEMMA2 = Family(
    name="gemma2",
    architecture="Gemma2ForCausalLM",
    gguf_architecture="gemma2",
    block=(*_FOUR_NORMS[:1], *_ATTENTION, *_FOUR_NORMS[1:3], *_MLP, *_FOUR_NORMS[3:]),
    defaults=_defaults(
        **_GEMMA, max_position_embeddings=8192, attn_logit_softcapping=50.0, final_logit_softcapping=30.0
    ),
    activation_key="hidden_activation",
    norm_offset=1.0,
    scales_embeddings=True,
    window="alternate",
)
GEMMA3 = Family(
    name="gemma3_text",
    architecture="Gemma3ForCausalLM",
    gguf_architecture="gemma3",
    block=(*_FOUR_NORMS[:1], *_ATTENTION, *_HEAD_NORMS, *_FOUR_NORMS[1:3], *_MLP, *_FOUR_NORMS[3:]),
    defaults=_defaults(
        **_GEMMA,
        max_position_embeddings=131072,
        rope_theta=1e6,
        rope_local_base_freq=10000.0,
        sliding_window_pattern=6,
    ),
    activation_key="hidden_activation",
    norm_offset=1.0,
    scales_embeddings=True,
    window="five of six",
)
PHI3 = Family(
    name="phi3",
    architecture="Phi3ForCausalLM",
    gguf_architecture="phi3",
    block=(*_PRE_NORMS[:1], *_FUSED_ATTENTION, *_PRE_NORMS[1:], *_FUSED_MLP),
    defaults=_defaults(rms_norm_eps=1e-5, max_position_embeddings=4096, partial_rotary_factor=1.0),
    window="all",
)
OLMO2 = Family(
    name="olmo2",
    architecture="Olmo2ForCausalLM",
    gguf_architecture="olmo2",
    block=(*_ATTENTION, *_PROJECTION_NORMS, *_POST_NORMS[:1], *_MLP, *_POST_NORMS[1:]),
    defaults=_defaults(rms_norm_eps=1e-5),
)
SMOLLM3 = Family(
    name="smollm3",
    architecture="SmolLM3ForCausalLM",
    gguf_architecture="smollm3",
    block=LLAMA.block,
    defaults=_defaults(
        num_key_value_heads=4,
        max_position_embeddings=32768,
        rope_theta=2e6,
        tie_word_embeddings=True,
        no_rope_layers=None,
        no_rope_layer_interval=4,
    ),
    window="listed",
    interleaved=True,
)

FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        family.name: family
        for family in (LLAMA, MISTRAL, MIXTRAL, QWEN2, QWEN3, QWEN3_MOE, GEMMA2, GEMMA3, PHI3, OLMO2, SMOLLM3)
    }
)
