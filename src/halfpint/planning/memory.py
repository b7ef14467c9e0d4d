"""What a model needs in memory beside its weights: the engine itself, keys and values, and working memory.

    weights <= share x memory - resting - keys and values - working

Keys and values: layers x kv_heads x head_dim x 2 numbers for every token that a layer keeps. Working memory is what
one batch of a prompt goes through: logits, attention scores, and activations of one block, which the next one
reuses. Both follow from the model's configuration; what an engine does with them is in `ENGINE_MEMORY`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from halfpint.errors import RoomError, UsageError
from halfpint.families import ModelConfig
from halfpint.kernels.key_values import POSITIONS_PER_PAGE

DEFAULT_ENGINE = "halfpint"
DEFAULT_CONTEXT_TOKENS = 4096

_FLOAT_BYTES = 4


@dataclass(frozen=True, slots=True)
class EngineMemory:
    """How one engine uses memory.

    Attributes
    ----------
    share : float
        Part of the memory that the engine takes at all.
    resting_bytes : int
        Program, libraries, tokenizer: there with the smallest model too.
    kv_number_bytes : int
        Bytes of one number of a key or value.
    kv_tokens : str
        What is set aside: `context` for so many tokens, `pages` for whole pages of 256 of them, `doubled` for the next
        power of two.
    windows : bool
        Whether layers with a sliding window keep the window only.
    batch_tokens : int
        Tokens of a prompt that go through a block together; 0 for all of them.
    logits_tokens : int
        Tokens that are scored together.
    scores_bytes : int
        Attention scores held at once at most; 0 for those of the whole batch with the whole context.
    """

    share: float
    resting_bytes: int
    kv_number_bytes: int
    kv_tokens: Literal["context", "pages", "doubled"]
    windows: bool
    batch_tokens: int
    logits_tokens: int
    scores_bytes: int


# halfpint: 60 MB is what `halfpint generate demo` holds beside the demo's weights; its cache has 16-bit floats in pages
# (kernels/key_values.py); prompts go through in pieces of 512 at most (engine/generation.py); attention to a cache has
# the scores of a few rows at a time (native/isa/attention.hpp).
_HALFPINT = EngineMemory(1.0, 80_000_000, 2, "pages", False, 512, 1, 2**20)
# llama.cpp: a prompt in pieces of n_ubatch = 512 tokens; f16 cache for the whole context (a window's worth plus a batch
# with sliding windows); the compute buffer is reserved for 512 rows of logits and, without flash attention, for the
# scores of 512 tokens with the whole context, 4 bytes each. For Llama-2-7B that gives 0.32 GB at 4096 tokens.
_LLAMA_CPP = EngineMemory(1.0, 150_000_000, 2, "context", True, 512, 512, 0)
# transformers on the CPU: importing torch and transformers takes about 0.6 GB; the cache has the model's 16-bit floats,
# grows by concatenation (so the new one stands beside the old: counted as doubled), and the prompt goes through whole.
_TRANSFORMERS = EngineMemory(1.0, 700_000_000, 2, "doubled", False, 0, 1, 0)
# vLLM sets gpu_memory_utilization = 0.9 of the device aside; CUDA context, libraries and captured graphs take about
# 1.5 GB of it; its profile run puts max_num_batched_tokens = 8192 through the model, and 256 sequences through the
# head.
_VLLM = EngineMemory(0.9, 1_500_000_000, 2, "context", False, 8192, 256, 64 * 2**20)
# vLLM on the CPU: one process with torch; batches of 2048 tokens by default.
_VLLM_CPU = EngineMemory(1.0, 1_200_000_000, 2, "context", False, 2048, 256, 64 * 2**20)

ENGINE_MEMORY: Mapping[str, EngineMemory] = MappingProxyType(
    {
        "halfpint": _HALFPINT,
        "llama.cpp": _LLAMA_CPP,
        "ollama": _LLAMA_CPP,
        "transformers": _TRANSFORMERS,
        "vllm": _VLLM,
        "vllm-cpu": _VLLM_CPU,
    }
)
"""Every engine of `planning.engines`. Estimates, made to be too large rather than too small."""


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """Where the memory goes.

    Attributes
    ----------
    engine : str
    context_tokens : int
    memory_bytes : int
        What there is.
    resting_bytes, kv_bytes, working_bytes : int
    weights_bytes : int
        What is left for the weights.
    """

    engine: str
    context_tokens: int
    memory_bytes: int
    resting_bytes: int
    kv_bytes: int
    working_bytes: int
    weights_bytes: int


def memory_need(config: ModelConfig, memory_bytes: int, context_tokens: int = 0, engine: str = "") -> MemoryNeed:
    """Split a machine's memory into what an engine needs with so many tokens, and what is left for the weights.

    Parameters
    ----------
    config : ModelConfig
    memory_bytes : int
    context_tokens : int
        0 takes 4096, or the model's longest if that is less.
    engine : str
        The empty name takes halfpint.

    Raises
    ------
    UsageError
        If the context is longer than the model's.
    RoomError
        If nothing is left for the weights.
    """
    context = context_tokens or min(DEFAULT_CONTEXT_TOKENS, config.max_positions)
    if context > config.max_positions:
        raise UsageError(f"--context {context}: the model reads at most {config.max_positions} tokens")
    name = engine or DEFAULT_ENGINE
    table = ENGINE_MEMORY[name]
    kv, working = kv_bytes(config, context, table), working_bytes(config, context, table)
    left = int(table.share * memory_bytes) - table.resting_bytes - kv - working
    if left <= 0:
        raise RoomError(
            f"{memory_bytes:,} bytes of memory leave no room for weights: {name} itself takes about "
            f"{table.resting_bytes:,}, keys and values of {context} tokens {kv:,}, working memory {working:,}; "
            "give more memory or a shorter --context"
        )
    return MemoryNeed(name, context, memory_bytes, table.resting_bytes, kv, working, left)


def kv_bytes(config: ModelConfig, context_tokens: int, engine: EngineMemory) -> int:
    """Bytes of the keys and values of one sequence of so many tokens."""
    per_token = 2 * config.kv_heads * config.head_dim * engine.kv_number_bytes
    kept = 0
    for layer in range(config.layers):
        tokens = context_tokens
        window = config.layer_window(layer)
        if engine.windows and window:
            tokens = min(tokens, window + engine.batch_tokens)
        if engine.kv_tokens == "doubled":
            tokens = min(_power_of_two(tokens), max(config.max_positions, tokens))
        elif engine.kv_tokens == "pages":
            tokens = -(-tokens // POSITIONS_PER_PAGE) * POSITIONS_PER_PAGE
        kept += tokens
    return kept * per_token


def working_bytes(config: ModelConfig, context_tokens: int, engine: EngineMemory) -> int:
    """Bytes of the widest of attention, MLP and head while a prompt of so many tokens is read."""
    batch = min(engine.batch_tokens or context_tokens, context_tokens)
    # The residual stream and its normed copy are there all the time.
    stream = 2 * config.hidden_size * batch * _FLOAT_BYTES
    scores = batch * context_tokens * config.heads * _FLOAT_BYTES
    if engine.scores_bytes:
        scores = min(scores, engine.scores_bytes)
    # Queries, keys, values and their mix.
    attention = scores + 2 * (config.heads + config.kv_heads) * config.head_dim * batch * _FLOAT_BYTES
    # Gate, up and their product.
    inner = config.experts_per_token * config.expert_size if config.experts else config.intermediate_size
    mlp = 3 * inner * batch * _FLOAT_BYTES
    head = min(engine.logits_tokens, context_tokens) * config.vocab_size * _FLOAT_BYTES
    return stream + max(attention, mlp, head)


def _power_of_two(tokens: int) -> int:
    return 1 << max(0, tokens - 1).bit_length()
