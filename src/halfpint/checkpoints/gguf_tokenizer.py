"""From tokenizer.json to the tokenizer that GGUF metadata spells out.

Two kinds exist in both: byte-level BPE (`gpt2`: tokens, merges, the name of the pre-tokenizer) and SentencePiece's BPE
(`llama`: tokens and scores). What cannot be said exactly in GGUF is refused: a file with a slightly wrong tokenizer
works, badly.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from halfpint.checkpoints import pretokenizers
from halfpint.checkpoints.gguf_metadata import GgufValue, ValueType, array, boolean, text, texts, uint32
from halfpint.checkpoints.sentencepiece import METASPACE, SpacePrefix, scores_of_merges, space_prefix
from halfpint.checkpoints.tokenizer_files import (
    LARGEST_VOCABULARY,
    SpecialTokens,
    TokenizerFiles,
    read_tokenizer_files,
    tokenizer_errors,
)
from halfpint.errors import CheckpointError, UnsupportedError

BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")
"""How SentencePiece spells the token of one byte."""

SPACE_PREFIX_KEY = "halfpint.space_prefix"
"""Our own key, for what `tokenizer.ggml.add_space_prefix` cannot say: a `SpacePrefix`."""

STOP_TOKENS_KEY = "halfpint.eos_token_ids"
"""Our own key: all tokens that end an answer. GGUF has roles for three."""

ADDED_TOKENS_KEY = "halfpint.added_tokens"
"""Our own key, JSON: by id, what added tokens do with the text around them, where that is anything."""

_FLAGS = ("lstrip", "rstrip", "single_word", "normalized")

_GGUF_PREFIXES = (SpacePrefix.ALWAYS, SpacePrefix.NEVER)


class TokenType(IntEnum):
    """GGUF's `tokenizer.ggml.token_type`."""

    UNDEFINED = 0
    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True, slots=True)
class _Vocabulary:
    """Tokens by id: texts, types, and which added ones are matched before anything else."""

    tokens: Sequence[str]
    types: Sequence[TokenType]


def tokenizer_metadata(folder: Path, config: Mapping[str, Any]) -> dict[str, GgufValue]:
    """Say a folder's tokenizer and chat template in GGUF metadata.

    Parameters
    ----------
    folder : Path
        Holds tokenizer.json; without any tokenizer in it, the metadata say that there is none.
    config : Mapping
        In Hugging Face's words; `vocab_size` rows are what tokens must fit.

    Raises
    ------
    UnsupportedError
        If GGUF has no words for this tokenizer; the message names what it lacks.
    CheckpointError
        If the files contradict themselves or the model.
    """
    files = read_tokenizer_files(folder, config)
    if files is None:
        if os.path.lexists(folder / "tokenizer.model") or os.path.lexists(folder / "vocab.json"):
            raise UnsupportedError(
                "the folder has a tokenizer, but no tokenizer.json; make one with "
                "transformers' AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)"
            )
        return {"tokenizer.ggml.model": text("none")}
    spelled: dict[str, Any] = json.loads(files.tokenizer.to_str())
    model = spelled["model"]
    if model.get("type") != "BPE" or model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        raise UnsupportedError(
            f"GGUF cannot say a {model.get('type')} tokenizer with its options; only BPE is written to GGUF"
        )
    vocabulary = _vocabulary(spelled, config)
    if _is_byte_level(spelled):
        keys = _byte_level_keys(spelled, vocabulary)
    else:
        keys = _sentencepiece_keys(spelled, vocabulary)
    keys |= _added_keys(spelled)
    keys["tokenizer.ggml.token_type"] = array(np.array(vocabulary.types), ValueType.INT32)
    return keys | _special_keys(files.tokenizer, files.special) | _template_keys(files)


def _template_keys(files: TokenizerFiles) -> dict[str, GgufValue]:
    return {} if files.chat_template is None else {"tokenizer.chat_template": text(files.chat_template)}


def _vocabulary(spelled: Mapping[str, Any], config: Mapping[str, Any]) -> _Vocabulary:
    by_id = {token_id: token for token, token_id in spelled["model"]["vocab"].items()}
    added = {entry["id"]: entry for entry in spelled.get("added_tokens") or ()}
    by_id |= {token_id: entry["content"] for token_id, entry in added.items()}
    width = config.get("vocab_size")
    count = max(by_id, default=-1) + 1
    if isinstance(width, int) and not isinstance(width, bool):
        if count > width:
            raise CheckpointError(
                f"tokenizer.json has ids up to {count - 1}, but the model has only {width} rows of embeddings"
            )
        count = width
    if count > LARGEST_VOCABULARY:
        raise CheckpointError(f"a vocabulary of {count} tokens; more than {LARGEST_VOCABULARY} are not written")
    tokens, types = [], []
    unknown = spelled["model"].get("unk_token")
    bytes_are_tokens = not _is_byte_level(spelled)  # else they are spelled as letters
    for token_id in range(count):
        token, kind = _token(by_id.get(token_id), added.get(token_id), token_id, spaces=bytes_are_tokens)
        tokens.append(token)
        if token == unknown:
            kind = TokenType.UNKNOWN
        elif kind is TokenType.NORMAL and bytes_are_tokens and BYTE_TOKEN.fullmatch(token):
            kind = TokenType.BYTE
        types.append(kind)
    if len(set(tokens)) != len(tokens) or "" in by_id.values():
        raise CheckpointError("tokenizer.json has an empty token, or two tokens that read the same")
    return _Vocabulary(tokens, types)


def _token(token: str | None, added: Mapping[str, Any] | None, token_id: int, *, spaces: bool) -> tuple[str, TokenType]:
    """Text and type; `spaces`: whether the tokenizer writes spaces as `METASPACE`."""
    if token is None:
        return f"[PAD{token_id}]", TokenType.UNUSED  # as llama.cpp's converter fills rows without a token
    if added is None:
        return token, TokenType.NORMAL
    if added.get("special"):
        return token, TokenType.CONTROL
    # A token that is matched in normalized text, or made of spaces alone, is spelled as it is in plain text.
    if spaces and (added.get("normalized") or set(token) == {METASPACE}):
        token = token.replace(METASPACE, " ")
    return token, TokenType.USER_DEFINED


def _added_keys(spelled: Mapping[str, Any]) -> dict[str, GgufValue]:
    """What added tokens do with the text around them, for which GGUF has no words."""
    told = {}
    for entry in spelled.get("added_tokens") or ():
        flags = [flag for flag in _FLAGS if entry.get(flag)]
        if flags and flags != ["normalized"]:
            told[str(entry["id"])] = {"content": entry["content"], **dict.fromkeys(flags, True)}
    return {ADDED_TOKENS_KEY: text(json.dumps(told, ensure_ascii=False, sort_keys=True))} if told else {}


def _is_byte_level(spelled: Mapping[str, Any]) -> bool:
    return "ByteLevel" in json.dumps(spelled.get("pre_tokenizer"))


def _merges(spelled: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Pairs, whichever way the file spells them."""
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in spelled["model"]["merges"]]
    return [(first, second) for first, second in pairs]


def _byte_level_keys(spelled: Mapping[str, Any], vocabulary: _Vocabulary) -> dict[str, GgufValue]:
    rule = pretokenizers.recognise(spelled)
    merges = _merges(spelled)
    if any(" " in part for merge in merges for part in merge):
        raise UnsupportedError("GGUF separates the two halves of a merge by a space, and a half has one inside")
    return {
        "tokenizer.ggml.model": text("gpt2"),
        "tokenizer.ggml.pre": text(rule.names[0]),
        "tokenizer.ggml.tokens": texts(vocabulary.tokens, "tokenizer.ggml.tokens"),
        "tokenizer.ggml.merges": texts([" ".join(merge) for merge in merges], "tokenizer.ggml.merges"),
    }


def _sentencepiece_keys(spelled: Mapping[str, Any], vocabulary: _Vocabulary) -> dict[str, GgufValue]:
    prefix = space_prefix(spelled)
    normal = [kind is TokenType.NORMAL for kind in vocabulary.types]
    scores = scores_of_merges(spelled["model"]["vocab"], normal, _merges(spelled))
    return {
        "tokenizer.ggml.model": text("llama"),
        "tokenizer.ggml.pre": text("default"),
        "tokenizer.ggml.tokens": texts(vocabulary.tokens, "tokenizer.ggml.tokens"),
        "tokenizer.ggml.scores": array(scores, ValueType.FLOAT32),
        "tokenizer.ggml.add_space_prefix": boolean(prefix is not SpacePrefix.NEVER),
        **({} if prefix in _GGUF_PREFIXES else {SPACE_PREFIX_KEY: text(prefix)}),
    }


def _special_keys(tokenizer: tokenizers.Tokenizer, special: SpecialTokens) -> dict[str, GgufValue]:
    before, after = _around(tokenizer)
    bos = before[0] if before else special.bos_id
    ends = tuple(dict.fromkeys((*after, *special.eos_ids)))
    named = {
        "bos": bos,
        "eos": ends[0] if ends else None,
        "eot": ends[1] if len(ends) > 1 else None,
        "eom": ends[2] if len(ends) > 2 else None,
        "unknown": special.unk_id,
        "padding": special.pad_id,
    }
    keys = {f"tokenizer.ggml.{role}_token_id": uint32(token) for role, token in named.items() if token is not None}
    if ends:
        keys[STOP_TOKENS_KEY] = array(np.array(ends), ValueType.UINT32)
    keys["tokenizer.ggml.add_bos_token"] = boolean(bool(before))
    keys["tokenizer.ggml.add_eos_token"] = boolean(bool(after))
    return keys


def _around(tokenizer: tokenizers.Tokenizer) -> tuple[list[int], list[int]]:
    """Ids that the tokenizer puts before and after every text: none or one each, or GGUF cannot say it."""
    with tokenizer_errors("tokenizer.json"):
        bare = tokenizer.encode("a", add_special_tokens=False).ids
        whole = tokenizer.encode("a").ids
    for start in range(len(whole) - len(bare) + 1):
        if whole[start : start + len(bare)] == bare:
            before, after = whole[:start], whole[start + len(bare) :]
            if len(before) <= 1 and len(after) <= 1:
                return before, after
    raise UnsupportedError(f"GGUF can put one token before a text and one after; this tokenizer makes {whole} of 'a'")
