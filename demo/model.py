"""The demo model in PyTorch: a Llama, whose parameters carry the Hugging Face names."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class LlamaShape:
    """How large the model is. Every row of a weight is a multiple of 256 long, so that every block format fits."""

    vocabulary: int = 2048
    hidden: int = 256
    layers: int = 8
    heads: int = 8
    key_value_heads: int = 4
    intermediate: int = 768
    positions: int = 512
    rope_theta: float = 10000.0
    norm_epsilon: float = 1e-5
    tied: bool = True

    @property
    def head_size(self) -> int:
        """Width of one attention head."""
        return self.hidden // self.heads


class Attention(nn.Module):
    """Causal self-attention whose query heads share key and value heads."""

    def __init__(self, shape: LlamaShape) -> None:
        super().__init__()
        self.shape = shape
        key_value_width = shape.key_value_heads * shape.head_size
        self.q_proj = nn.Linear(shape.hidden, shape.hidden, bias=False)
        self.k_proj = nn.Linear(shape.hidden, key_value_width, bias=False)
        self.v_proj = nn.Linear(shape.hidden, key_value_width, bias=False)
        self.o_proj = nn.Linear(shape.hidden, shape.hidden, bias=False)

    def forward(self, hidden: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        """Mix positions: (batch, length, hidden) -> (batch, length, hidden)."""
        batch, length, width = hidden.shape
        size = self.shape.head_size
        query = self.q_proj(hidden).view(batch, length, -1, size).transpose(1, 2)
        key = self.k_proj(hidden).view(batch, length, -1, size).transpose(1, 2)
        value = self.v_proj(hidden).view(batch, length, -1, size).transpose(1, 2)
        query = rotate(query, cosine, sine)
        key = rotate(key, cosine, sine)
        repeats = self.shape.heads // self.shape.key_value_heads
        key = key.repeat_interleave(repeats, dim=1)
        value = value.repeat_interleave(repeats, dim=1)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        joined: Tensor = self.o_proj(mixed.transpose(1, 2).reshape(batch, length, width))
        return joined


class FeedForward(nn.Module):
    """The gated feed-forward network (SwiGLU)."""

    def __init__(self, shape: LlamaShape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.hidden, shape.intermediate, bias=False)
        self.up_proj = nn.Linear(shape.hidden, shape.intermediate, bias=False)
        self.down_proj = nn.Linear(shape.intermediate, shape.hidden, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """Transform each position by itself."""
        transformed: Tensor = self.down_proj(functional.silu(self.gate_proj(hidden)) * self.up_proj(hidden))
        return transformed


class Layer(nn.Module):
    """Attention and feed-forward, each behind a norm and added to the stream."""

    def __init__(self, shape: LlamaShape) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(shape.hidden, eps=shape.norm_epsilon)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = nn.RMSNorm(shape.hidden, eps=shape.norm_epsilon)
        self.mlp = FeedForward(shape)

    def forward(self, hidden: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        """Run one layer."""
        mixed: Tensor = hidden + self.self_attn(self.input_layernorm(hidden), cosine, sine)
        transformed: Tensor = self.mlp(self.post_attention_layernorm(mixed))
        return mixed + transformed


class Decoder(nn.Module):
    """Embedding, layers and last norm."""

    def __init__(self, shape: LlamaShape) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocabulary, shape.hidden)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.norm = nn.RMSNorm(shape.hidden, eps=shape.norm_epsilon)


class Llama(nn.Module):
    """The whole model; its output matrix is its embedding, or one of its own where the shape is not tied."""

    cosine: Tensor
    sine: Tensor

    def __init__(self, shape: LlamaShape) -> None:
        super().__init__()
        self.model = Decoder(shape)
        self.lm_head = None if shape.tied else nn.Linear(shape.hidden, shape.vocabulary, bias=False)
        cosine, sine = rotary_tables(shape)
        self.register_buffer("cosine", cosine, persistent=False)
        self.register_buffer("sine", sine, persistent=False)
        depth_scale = (2 * shape.layers) ** -0.5
        for name, weight in self.named_parameters():
            if weight.ndim == 2:
                into_stream = name.endswith(("o_proj.weight", "down_proj.weight"))
                nn.init.normal_(weight, std=0.02 * (depth_scale if into_stream else 1.0))

    def forward(self, tokens: Tensor) -> Tensor:
        """Score the next token: (batch, length) -> (batch, length, vocabulary)."""
        length = tokens.shape[1]
        cosine, sine = self.cosine[:length], self.sine[:length]
        hidden = self.model.embed_tokens(tokens)
        for layer in self.model.layers:
            hidden = layer(hidden, cosine, sine)
        return functional.linear(self.model.norm(hidden), self.output_weight)

    @property
    def output_weight(self) -> Tensor:
        """The matrix that scores tokens: (vocabulary, hidden)."""
        return self.model.embed_tokens.weight if self.lm_head is None else self.lm_head.weight


def rotary_tables(shape: LlamaShape) -> tuple[Tensor, Tensor]:
    """Cosines and sines of every position, each (positions, head_size)."""
    exponents = torch.arange(0, shape.head_size, 2, dtype=torch.float32) / shape.head_size
    angles = torch.outer(torch.arange(shape.positions, dtype=torch.float32), shape.rope_theta**-exponents)
    angles = torch.cat([angles, angles], dim=1)
    return angles.cos(), angles.sin()


def rotate(heads: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Turn each head by its position; the first half of a head pairs with its second half."""
    first, second = heads.chunk(2, dim=-1)
    return heads * cosine + torch.cat([-second, first], dim=-1) * sine


def next_token_loss(model: nn.Module, sequences: Tensor) -> Tensor:
    """Mean cross-entropy, in nats, of every token of (batch, length) after the first."""
    scores = model(sequences[:, :-1])
    return functional.cross_entropy(scores.flatten(0, 1), sequences[:, 1:].flatten())
