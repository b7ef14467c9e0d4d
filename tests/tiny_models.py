"""Tiny random models of every family, saved by transformers with a tokenizer: the fixture that engines,
containers and pipelines are tested with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

VOCAB_SIZE = 320
TEXT = (
    "You can weigh flour on a laboratory scale, but a kitchen scale is plenty. The little pot poured its milk into "
    "small glasses, and none of it was lost. 12 glasses, 24 spoons, 360 drops; how precise must each of them be? "
) * 4

_SIZES = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}

FAMILIES: Mapping[str, Mapping[str, Any]] = {
    "llama": {"rms_norm_eps": 1e-5},
    "mistral": {"sliding_window": None},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None},
    "qwen2": {},
    "qwen3": {"head_dim": 64},
    "qwen3_moe": {
        "head_dim": 64,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 64,
        "norm_topk_prob": True,
    },
    "gemma2": {"head_dim": 64, "query_pre_attn_scalar": 64, "sliding_window": 16},
    "gemma3_text": {"num_hidden_layers": 6, "head_dim": 64, "query_pre_attn_scalar": 64, "sliding_window": 16},
    "phi3": {"sliding_window": None},
    "olmo2": {},
    "smollm3": {"num_hidden_layers": 4, "tie_word_embeddings": True},
}
"""model_type -> what its tiny model has beside the common sizes; all of it can be said in GGUF."""


def tiny_config(family: str, **overrides: Any) -> transformers.PreTrainedConfig:
    """Configuration of the tiny model of a family."""
    config_class = type(transformers.AutoConfig.for_model(family))
    return config_class(**{**_SIZES, **FAMILIES[family], **overrides})


def build_tiny(family: str, seed: int = 0, **overrides: Any) -> transformers.PreTrainedModel:
    """A random float32 model in evaluation mode; norms and biases are far from one and zero, so that leaving
    one out shows."""
    config = tiny_config(family, **overrides)
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.3)
            elif "embed_tokens" in name:
                parameter.copy_(torch.randn_like(parameter) * 0.5)
            else:
                parameter.copy_(torch.randn_like(parameter) * (2.0 / parameter.shape[-1] ** 0.5))
    return model.eval()


def save_tiny(
    family: str, folder: Path, dtype: str = "float32", seed: int = 0, **overrides: Any
) -> transformers.PreTrainedModel:
    """Save such a model and a byte-level BPE tokenizer into a folder; returns the model as saved."""
    model = build_tiny(family, seed, **overrides).to(getattr(torch, dtype))
    model.save_pretrained(folder)
    save_tokenizer(folder)
    return model


def save_tokenizer(folder: Path) -> None:
    """A complete byte-level BPE tokenizer with 320 entries: three special tokens, 256 bytes, and merges."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=["<s>", "</s>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "clean_up_tokenization_spaces": False,
        "model_max_length": 256,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2), encoding="utf-8")
