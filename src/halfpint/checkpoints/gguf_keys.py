"""Types that known metadata keys must have, checked once when a file is opened."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from halfpint.checkpoints.gguf_metadata import FLOATS, INTEGERS, Metadata, ValueType

_TEXT = (frozenset({ValueType.STRING}), "a string")
_FLAG = (frozenset({ValueType.BOOL}), "a bool")
_INTEGER = (INTEGERS, "an integer")
_FLOAT = (FLOATS, "a float")

_Wanted = tuple[frozenset[ValueType], str]

_SINGLES: Mapping[str, _Wanted] = MappingProxyType(
    {
        "general.architecture": _TEXT,
        "general.name": _TEXT,
        "general.file_type": _INTEGER,
        "general.quantization_version": _INTEGER,
        "split.no": _INTEGER,
        "split.count": _INTEGER,
        "split.tensors.count": _INTEGER,
        "tokenizer.ggml.model": _TEXT,
        "tokenizer.ggml.pre": _TEXT,
        "tokenizer.ggml.bos_token_id": _INTEGER,
        "tokenizer.ggml.eos_token_id": _INTEGER,
        "tokenizer.ggml.eot_token_id": _INTEGER,
        "tokenizer.ggml.eom_token_id": _INTEGER,
        "tokenizer.ggml.unknown_token_id": _INTEGER,
        "tokenizer.ggml.padding_token_id": _INTEGER,
        "tokenizer.ggml.add_bos_token": _FLAG,
        "tokenizer.ggml.add_eos_token": _FLAG,
        "tokenizer.ggml.add_space_prefix": _FLAG,
        "tokenizer.chat_template": _TEXT,
    }
)

_ARRAYS: Mapping[str, _Wanted] = MappingProxyType(
    {
        "tokenizer.ggml.tokens": (frozenset({ValueType.STRING}), "an array of strings"),
        "tokenizer.ggml.merges": (frozenset({ValueType.STRING}), "an array of strings"),
        "tokenizer.ggml.scores": (frozenset({ValueType.FLOAT32}), "an array of float32"),
        "tokenizer.ggml.token_type": (INTEGERS, "an array of integers"),
    }
)

# After the architecture's name. Lengths and head counts may also be one number per block.
_OF_ARCHITECTURE: Mapping[str, _Wanted] = MappingProxyType(
    {
        "context_length": _INTEGER,
        "embedding_length": _INTEGER,
        "block_count": _INTEGER,
        "vocab_size": _INTEGER,
        "feed_forward_length": _INTEGER,
        "expert_count": _INTEGER,
        "expert_used_count": _INTEGER,
        "expert_feed_forward_length": _INTEGER,
        "attention.head_count": _INTEGER,
        "attention.head_count_kv": _INTEGER,
        "attention.key_length": _INTEGER,
        "attention.value_length": _INTEGER,
        "attention.sliding_window": _INTEGER,
        "attention.layer_norm_rms_epsilon": _FLOAT,
        "rope.dimension_count": _INTEGER,
        "rope.freq_base": _FLOAT,
        "rope.scaling.type": _TEXT,
        "rope.scaling.factor": _FLOAT,
        "rope.scaling.original_context_length": _INTEGER,
        "attn_logit_softcapping": _FLOAT,
        "final_logit_softcapping": _FLOAT,
    }
)
_MAY_BE_ARRAYS = frozenset({"feed_forward_length", "attention.head_count", "attention.head_count_kv"})


def check_known_keys(metadata: Metadata) -> None:
    """Refuse a known key of the wrong type.

    Raises
    ------
    CheckpointError
        Naming file, key, the type it has and the type it must have.
    """
    wanted = dict(_SINGLES)
    architecture = metadata.text("general.architecture")
    if architecture is not None:
        wanted |= {f"{architecture}.{suffix}": kinds for suffix, kinds in _OF_ARCHITECTURE.items()}
    for key, (kinds, words) in wanted.items():
        value = metadata.get(key)
        if value is None:
            continue
        array_allowed = key.partition(".")[2] in _MAY_BE_ARRAYS
        found = value.element if array_allowed and value.element is not None else value.type
        if found not in kinds:
            raise metadata.wrong(key, words)
    for key, (kinds, words) in _ARRAYS.items():
        value = metadata.get(key)
        if value is not None and value.element not in kinds:
            raise metadata.wrong(key, words)
