"""Few tokens of texts through a block in one native call; what it computes is `halfpint.engine.block.Block.steps`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from halfpint.engine.cache import Texts
from halfpint.engine.weights import Parts, Projection
from halfpint.families import ModelConfig, Role
from halfpint.kernels.decoder_block import BlockWiring, DecoderBlock, Factor
from halfpint.kernels.integer_linear import FEW_TOKENS, IntegerLinear
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


def block_for_few(config: ModelConfig, layer: int, parts: Parts) -> DecoderBlock | None:
    """Wire a block for few tokens; None where a weight is not packed, or experts are chosen."""
    if parts.experts or not all(_is_packed(projection) for projection in parts.projections.values()):
        return None
    wiring = BlockWiring(
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
    return DecoderBlock(wiring)


def forward_few(
    block: DecoderBlock, config: ModelConfig, layer: int, hidden: FloatArray, texts: Texts
) -> FloatArray | None:
    """Pass hidden states [1, tokens, hidden_size] through a block; None when there are too many tokens."""
    if hidden.shape[1] > FEW_TOKENS:
        return None
    rope = config.layer_rope(layer)
    spans = [(span.cache.layers[layer], span.end - span.begin) for span in texts.spans]
    out = block.forward(hidden[0], spans, None if rope is None else texts.angles(rope))
    return out.reshape(hidden.shape)


def _is_packed(projection: Projection) -> bool:
    return isinstance(projection.linear, IntegerLinear) and projection.linear.handle is not None


def _factor(projection: Projection) -> Factor:
    assert isinstance(projection.linear, IntegerLinear)
    return projection.linear, projection.bias


def _factors(parts: Parts, fused: Role, separate: Sequence[Role]) -> list[Factor]:
    """Give the one weight of several products where there is one, otherwise each."""
    roles = [fused] if fused in parts.projections else separate
    return [_factor(parts.projections[role]) for role in roles]
