"""The records of a model family: its configuration, its tensors, and how both are named."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from halfpint.families.rope import Rope


class Role(StrEnum):
    """What a tensor does in the model. The engine is wired by roles alone."""

    # Enum's own is Python code: it takes longer than the look-up in a table of parts that it is for.
    __hash__ = str.__hash__

    EMBEDDING = "embedding"
    HEAD = "head"
    FINAL_NORM = "final_norm"
    ATTENTION_INPUT_NORM = "attention_input_norm"
    ATTENTION_OUTPUT_NORM = "attention_output_norm"
    MLP_INPUT_NORM = "mlp_input_norm"
    MLP_OUTPUT_NORM = "mlp_output_norm"
    QUERY_NORM = "query_norm"
    KEY_NORM = "key_norm"
    ATTENTION_Q = "attention_q"
    ATTENTION_K = "attention_k"
    ATTENTION_V = "attention_v"
    ATTENTION_QKV = "attention_qkv"
    ATTENTION_OUTPUT = "attention_output"
    MLP_GATE = "mlp_gate"
    MLP_UP = "mlp_up"
    MLP_GATE_UP = "mlp_gate_up"
    MLP_DOWN = "mlp_down"
    ROUTER = "router"
    EXPERT_GATE = "expert_gate"
    EXPERT_UP = "expert_up"
    EXPERT_DOWN = "expert_down"
    ATTENTION_Q_BIAS = "attention_q_bias"
    ATTENTION_K_BIAS = "attention_k_bias"
    ATTENTION_V_BIAS = "attention_v_bias"
    ATTENTION_OUTPUT_BIAS = "attention_output_bias"
    MLP_GATE_BIAS = "mlp_gate_bias"
    MLP_UP_BIAS = "mlp_up_bias"
    MLP_DOWN_BIAS = "mlp_down_bias"


LINEAR_ROLES = frozenset(
    {
        Role.ATTENTION_Q,
        Role.ATTENTION_K,
        Role.ATTENTION_V,
        Role.ATTENTION_QKV,
        Role.ATTENTION_OUTPUT,
        Role.MLP_GATE,
        Role.MLP_UP,
        Role.MLP_GATE_UP,
        Role.MLP_DOWN,
        Role.EXPERT_GATE,
        Role.EXPERT_UP,
        Role.EXPERT_DOWN,
    }
)
"""Weights of the blocks that a vector is multiplied with: what quantizing is about."""

NORM_ROLES = frozenset(
    {
        Role.FINAL_NORM,
        Role.ATTENTION_INPUT_NORM,
        Role.ATTENTION_OUTPUT_NORM,
        Role.MLP_INPUT_NORM,
        Role.MLP_OUTPUT_NORM,
        Role.QUERY_NORM,
        Role.KEY_NORM,
    }
)
"""Vectors that scale a normalised one."""

BIAS_ROLES = frozenset(role for role in Role if role.value.endswith("_bias"))
"""Vectors that are added to a product."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """What the forward pass and the table of tensors need to know; made and checked by `read_config`.

    Attributes
    ----------
    family : str
        A key of `FAMILIES`.
    vocab_size, hidden_size, intermediate_size, layers, heads, kv_heads, head_dim, max_positions : int
        Sizes. `heads` is a multiple of `kv_heads`.
    norm_epsilon, norm_offset : float
        A norm multiplies by `weight + norm_offset`: 1 for Gemma, 0 otherwise.
    activation : str
        `silu`, or `gelu_tanh`.
    rope : Rope
        Of layers in general.
    sliding_rope : Rope
        Of layers with a sliding window; the same as `rope` unless the family has two (Gemma 3).
    unrotated_layers : frozenset of int
        Layers without positions (SmolLM3).
    sliding_window : int
        A token attends to itself and `sliding_window - 1` tokens before it in `sliding_layers`; 0 means no window.
    sliding_layers : frozenset of int
        Layers with the window; empty when `sliding_window` is 0.
    query_scale, embedding_scale : float
        Attention scores and embeddings are multiplied by these.
    attention_softcap, logit_softcap : float
        `cap * tanh(x / cap)` is applied to scores and logits; 0 means no cap.
    tied_embeddings : bool
        The head is the embedding, transposed.
    attention_bias : str
        Which attention projections have biases: `none`, `qkv`, or `all`.
    mlp_bias : bool
        Whether the projections of the MLP have biases.
    experts, experts_per_token, expert_size : int
        Number of experts, how many a token uses, and their inner size; 0 in dense models.
    normalize_expert_weights : bool
        Whether the weights of the chosen experts are scaled to sum to one.
    bos_ids, eos_ids : tuple of int
        Tokens that begin and end a text; may be empty.
    """

    family: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    max_positions: int
    norm_epsilon: float
    norm_offset: float
    activation: Literal["silu", "gelu_tanh"]
    rope: Rope
    sliding_rope: Rope
    unrotated_layers: frozenset[int]
    sliding_window: int
    sliding_layers: frozenset[int]
    query_scale: float
    embedding_scale: float
    attention_softcap: float
    logit_softcap: float
    tied_embeddings: bool
    attention_bias: Literal["none", "qkv", "all"]
    mlp_bias: bool
    experts: int
    experts_per_token: int
    expert_size: int
    normalize_expert_weights: bool
    bos_ids: tuple[int, ...]
    eos_ids: tuple[int, ...]

    def layer_rope(self, layer: int) -> Rope | None:
        """Rotary embedding of a layer; None when it has no positions."""
        if layer in self.unrotated_layers:
            return None
        return self.sliding_rope if layer in self.sliding_layers else self.rope

    def layer_window(self, layer: int) -> int:
        """Sliding window of a layer in tokens; 0 when it sees everything before it."""
        return self.sliding_window if layer in self.sliding_layers else 0


@dataclass(frozen=True, slots=True)
class TensorRole:
    """One tensor that a model of a family has.

    Attributes
    ----------
    name : str
        In the Hugging Face folder.
    shape : tuple of int
        There.
    role : Role
        What it does.
    layer, expert : int or None
        Which block and which expert it belongs to.
    gguf_name : str
        In llama.cpp's files. All experts of a layer share one name: they are slices of its first axis.
    gguf_offset : float
        llama.cpp's file holds the value plus this: 1 for Gemma's norms.
    interleaved : bool
        llama.cpp's file holds the rows in another order: see `gguf_row_order`.
    optional : bool
        A checkpoint may leave it out: the head of a model with tied embeddings.
    """

    name: str
    shape: tuple[int, ...]
    role: Role
    layer: int | None
    expert: int | None
    gguf_name: str
    gguf_offset: float = 0.0
    interleaved: bool = False
    optional: bool = False


Dimension = Literal["vocab", "hidden", "query", "key", "qkv", "mlp", "gate_up", "expert_mlp", "experts", "head_dim"]


@dataclass(frozen=True, slots=True)
class Row:
    """One kind of tensor in a family's table: role, names after the block's prefix, and shape in words.

    `{e}` in `name` stands for the expert.
    """

    role: Role
    name: str
    gguf_name: str
    shape: tuple[Dimension, ...]


@dataclass(frozen=True, slots=True)
class Family:
    """How models of one kind are wired, and how containers name their parts.

    Attributes
    ----------
    name : str
        Key in `FAMILIES`; equal to Hugging Face's `model_type`.
    architecture : str
        What Hugging Face's `architectures` says.
    gguf_architecture : str
        What GGUF's `general.architecture` says.
    block : tuple of Row
        Tensors of every block, without biases.
    defaults : Mapping
        Configuration keys that Hugging Face's class fills in when config.json leaves them out.
    activations : frozenset of str
        Values of `hidden_act` (or `hidden_activation`) that released models of this family have.
    norm_offset : float
        See `ModelConfig`.
    scales_embeddings : bool
        Whether embeddings are multiplied by the square root of the hidden size.
    query_key_bias : bool
        Whether query, key and value projections always have biases (Qwen2).
    window : str
        Which layers have the sliding window: `none`; `all`; `alternate` (every second, from the first);
        `five of six`; `listed` (`layer_types`, or `use_sliding_window` with `max_window_layers`).
    interleaved : bool
        Whether llama.cpp's files hold query and key rows in interleaved order.
    gguf_biases : bool
        Whether llama.cpp reads biases for this architecture.
    """

    name: str
    architecture: str
    gguf_architecture: str
    block: tuple[Row, ...]
    defaults: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    activation_key: str = "hidden_act"
    norm_offset: float = 0.0
    scales_embeddings: bool = False
    query_key_bias: bool = False
    window: Literal["none", "all", "alternate", "five of six", "listed"] = "none"
    interleaved: bool = False
    gguf_biases: bool = False

    def tensors(self, config: ModelConfig) -> tuple[TensorRole, ...]:
        """Every tensor of a model with this configuration, in the order of the forward pass."""
        sizes = _sizes(config)
        tensors = [
            self._outer(
                Role.EMBEDDING, "model.embed_tokens.weight", "token_embd.weight", (sizes["vocab"], sizes["hidden"])
            )
        ]
        rows = (*self.block, *bias_rows(config))
        for layer in range(config.layers):
            for row in rows:
                copies = range(config.experts) if "{e}" in row.name else (None,)
                tensors += [self._inner(row, layer, expert, sizes) for expert in copies]
        tensors.append(self._outer(Role.FINAL_NORM, "model.norm.weight", "output_norm.weight", (sizes["hidden"],)))
        head = self._outer(Role.HEAD, "lm_head.weight", "output.weight", (sizes["vocab"], sizes["hidden"]))
        if config.tied_embeddings:
            head = TensorRole(head.name, head.shape, head.role, None, None, head.gguf_name, optional=True)
        return (*tensors, head)

    def _outer(self, role: Role, name: str, gguf_name: str, shape: tuple[int, ...]) -> TensorRole:
        offset = self.norm_offset if role in NORM_ROLES else 0.0
        return TensorRole(name, shape, role, None, None, gguf_name, gguf_offset=offset)

    def _inner(self, row: Row, layer: int, expert: int | None, sizes: Mapping[str, int]) -> TensorRole:
        return TensorRole(
            name=f"model.layers.{layer}." + row.name.replace("{e}", str(expert)),
            shape=tuple(sizes[dimension] for dimension in row.shape),
            role=row.role,
            layer=layer,
            expert=expert,
            gguf_name=f"blk.{layer}.{row.gguf_name}",
            gguf_offset=self.norm_offset if row.role in NORM_ROLES else 0.0,
            interleaved=self.interleaved and row.role in _ROTATED_ROLES,
        )


_ROTATED_ROLES = frozenset({Role.ATTENTION_Q, Role.ATTENTION_K, Role.ATTENTION_Q_BIAS, Role.ATTENTION_K_BIAS})

_QKV_BIASES = (
    Row(Role.ATTENTION_Q_BIAS, "self_attn.q_proj.bias", "attn_q.bias", ("query",)),
    Row(Role.ATTENTION_K_BIAS, "self_attn.k_proj.bias", "attn_k.bias", ("key",)),
    Row(Role.ATTENTION_V_BIAS, "self_attn.v_proj.bias", "attn_v.bias", ("key",)),
)
_OUTPUT_BIAS = (Row(Role.ATTENTION_OUTPUT_BIAS, "self_attn.o_proj.bias", "attn_output.bias", ("hidden",)),)
_MLP_BIASES = (
    Row(Role.MLP_GATE_BIAS, "mlp.gate_proj.bias", "ffn_gate.bias", ("mlp",)),
    Row(Role.MLP_UP_BIAS, "mlp.up_proj.bias", "ffn_up.bias", ("mlp",)),
    Row(Role.MLP_DOWN_BIAS, "mlp.down_proj.bias", "ffn_down.bias", ("hidden",)),
)


def bias_rows(config: ModelConfig) -> tuple[Row, ...]:
    """Rows of the biases that this configuration asks for."""
    attention = {"none": (), "qkv": _QKV_BIASES, "all": _QKV_BIASES + _OUTPUT_BIAS}[config.attention_bias]
    return attention + (_MLP_BIASES if config.mlp_bias else ())


def _sizes(config: ModelConfig) -> Mapping[str, int]:
    query, key = config.heads * config.head_dim, config.kv_heads * config.head_dim
    return {
        "vocab": config.vocab_size,
        "hidden": config.hidden_size,
        "query": query,
        "key": key,
        "qkv": query + 2 * key,
        "mlp": config.intermediate_size,
        "gate_up": 2 * config.intermediate_size,
        "expert_mlp": config.expert_size,
        "experts": config.experts,
        "head_dim": config.head_dim,
    }


def gguf_row_order(tensor: TensorRole, config: ModelConfig) -> NDArray[np.int64] | None:
    """Order in which llama.cpp's file holds the rows of a tensor.

    llama.cpp rotates neighbouring pairs for Llama-like models, so its files hold, for each head, row 0, row
    d/2, row 1, row d/2 + 1 ... (`LlamaModel.permute` of its converter).

    Returns
    -------
    int64 [rows] or None
        `gguf_rows = rows[order]`; None when the order is the same. `inverse[order] = arange(rows)` undoes it.
    """
    if not tensor.interleaved:
        return None
    rows = tensor.shape[0]
    heads = rows // config.head_dim
    return np.arange(rows).reshape(heads, 2, config.head_dim // 2).swapaxes(1, 2).reshape(-1)
