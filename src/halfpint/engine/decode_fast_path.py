"""Few tokens of texts through all blocks in one native call; what is computed is written in `halfpint.engine.block`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from halfpint.engine.cache import Texts
from halfpint.engine.weights import Parts, Projection
from halfpint.families import ModelConfig, Role, Rope
from halfpint.kernels.decoder_block import BlockWiring, DecoderBlocks, Factor
from halfpint.kernels.integer_linear import IntegerLinear
from halfpint.tensors import FloatArray

_NORMS: Mapping[Role, str] = MappingProxyType(
    {
        Role.ATTENTION_INPUT_NORM: "attention_input",
        Role.QUERY_NORM: "query",
        Role.KEY_NORM: "key",
        Role.ATTENTION_OUTPUT_NORM: "attention_output",
        Role.MLP_INPUT_NORM: "mlp_input",
        Role.MLP_OUTPUT_NORM: "mlp_output",
    }
)


@dataclass(frozen=True, slots=True)
class FewTokens:
    """All blocks of a model, for few tokens."""

    blocks: DecoderBlocks
    ropes: tuple[Rope, ...]

    def forward(self, hidden: FloatArray, texts: Texts) -> FloatArray:
        """Pass hidden states [1, tokens, hidden_size], of `FEW_TOKENS` tokens at most, through all blocks."""
        held = [(span.cache.handles, span.end - span.begin) for span in texts.spans]
        return self.blocks.forward(hidden[0], held, [texts.angles(rope) for rope in self.ropes])[np.newaxis]


def few_tokens(config: ModelConfig, blocks: Sequence[Parts]) -> FewTokens | None:
    """Wire a model for few tokens; None where the general path is to be taken: see `supports`."""
    if not supports(config, blocks):
        return None
    used = [config.layer_rope(layer) for layer in range(len(blocks))]
    ropes: list[Rope] = []
    for rope in used:
        if rope is not None and rope not in ropes:
            ropes.append(rope)
    wirings = [_wiring(config, layer, parts) for layer, parts in enumerate(blocks)]
    kinds = [-1 if rope is None else ropes.index(rope) for rope in used]
    return FewTokens(DecoderBlocks(wirings, kinds), tuple(ropes))


# What the native blocks know of a configuration, and what does not concern blocks.
_UNDERSTOOD = frozenset(
    {
        "family",
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "layers",
        "heads",
        "kv_heads",
        "head_dim",
        "max_positions",
        "norm_epsilon",
        "norm_offset",
        "activation",
        "rope",
        "sliding_rope",
        "unrotated_layers",
        "sliding_window",
        "sliding_layers",
        "query_scale",
        "embedding_scale",
        "attention_softcap",
        "logit_softcap",
        "tied_embeddings",
        "attention_bias",
        "mlp_bias",
        "experts",
        "experts_per_token",
        "expert_size",
        "normalize_expert_weights",
        "bos_ids",
        "eos_ids",
    }
)
_ACTIVATIONS = frozenset({"silu", "gelu_tanh"})
_PROJECTIONS = frozenset(
    {
        Role.ATTENTION_QKV,
        Role.ATTENTION_Q,
        Role.ATTENTION_K,
        Role.ATTENTION_V,
        Role.ATTENTION_OUTPUT,
        Role.MLP_GATE_UP,
        Role.MLP_GATE,
        Role.MLP_UP,
        Role.MLP_DOWN,
    }
)


def supports(config: ModelConfig, blocks: Sequence[Parts]) -> bool:
    """Whether the native blocks compute this model: a positive list, so that what is new takes the general path.

    Every field of the configuration is one that they know, or has the value that means nothing; every part of a block
    has a place in them; all weights are packed.
    """
    for field in dataclasses.fields(config):
        if field.name not in _UNDERSTOOD and getattr(config, field.name) != field.default:
            return False
    return config.activation in _ACTIVATIONS and all(
        _is_packed(parts) and parts.norms.keys() <= _NORMS.keys() and parts.projections.keys() <= _PROJECTIONS
        for parts in blocks
    )


def _wiring(config: ModelConfig, layer: int, parts: Parts) -> BlockWiring:
    return BlockWiring(
        hidden_size=config.hidden_size,
        inner_size=config.intermediate_size,
        heads=config.heads,
        kv_heads=config.kv_heads,
        head_dim=config.head_dim,
        epsilon=config.norm_epsilon,
        query_scale=config.query_scale,
        cap=config.attention_softcap,
        window=config.layer_window(layer),
        activation=config.activation,
        norms={_NORMS[role]: factors for role, factors in parts.norms.items()},
        first=_factors(parts, Role.ATTENTION_QKV, (Role.ATTENTION_Q, Role.ATTENTION_K, Role.ATTENTION_V)),
        output=_factor(parts.projections[Role.ATTENTION_OUTPUT]),
        gates=_factors(parts, Role.MLP_GATE_UP, (Role.MLP_GATE, Role.MLP_UP)),
        down=_factor(parts.projections[Role.MLP_DOWN]),
    )


def _is_packed(parts: Parts) -> bool:
    linears = [projection.linear for projection in parts.projections.values()]
    return not parts.experts and all(isinstance(each, IntegerLinear) and each.handle is not None for each in linears)


def _factor(projection: Projection) -> Factor:
    assert isinstance(projection.linear, IntegerLinear)
    return projection.linear, projection.bias


def _factors(parts: Parts, fused: Role, separate: Sequence[Role]) -> list[Factor]:
    """Give the one weight of several products where there is one, otherwise each."""
    roles = [fused] if fused in parts.projections else separate
    return [_factor(parts.projections[role]) for role in roles]
