"""The files that a tokenizer has in a Hugging Face folder, for models that come from GGUF."""

from __future__ import annotations

import json
from typing import Any

import tokenizers
from tokenizers import processors

from halfpint.checkpoints.tokenizer_files import tokenizer_errors
from halfpint.tokenization.tokenizer import Tokenizer


def folder_files(tokenizer: Tokenizer) -> dict[str, bytes]:
    """Write a tokenizer as a folder's files.

    Returns
    -------
    dict of str to bytes
        tokenizer.json, tokenizer_config.json (with the chat template) and generation_config.json: what
        `load_tokenizer` and transformers make the same ids of.

    Raises
    ------
    CheckpointError
        If the tokenizer contradicts itself.
    """
    special = tokenizer.special
    names = {"bos": special.bos_id, "unk": special.unk_id, "pad": special.pad_id}
    names["eos"] = special.eos_ids[0] if special.eos_ids else None
    settings: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    settings |= {
        f"{role}_token": tokenizer.model.id_to_token(token) for role, token in names.items() if token is not None
    }
    if tokenizer.chat_template is not None:
        settings["chat_template"] = tokenizer.chat_template
    generation: dict[str, Any] = {} if special.bos_id is None else {"bos_token_id": special.bos_id}
    generation["eos_token_id"] = list(special.eos_ids)
    return {
        "tokenizer.json": _spelled(tokenizer).encode("utf-8"),
        "tokenizer_config.json": _json(settings),
        "generation_config.json": _json(generation),
    }


def _spelled(tokenizer: Tokenizer) -> str:
    """tokenizer.json, which says by itself what stands around every text."""
    with tokenizer_errors("the tokenizer"):
        spelled: str = tokenizer.model.to_str(pretty=True)
        if not (tokenizer.before or tokenizer.after):
            return spelled
        whole = tokenizers.Tokenizer.from_str(spelled)
        around = {token: whole.id_to_token(token) for token in (*tokenizer.before, *tokenizer.after)}
        pieces = [*(around[token] for token in tokenizer.before), "$A", *(around[token] for token in tokenizer.after)]
        whole.post_processor = processors.TemplateProcessing(
            single=pieces, special_tokens=[(text, token) for token, text in around.items()]
        )
        return str(whole.to_str(pretty=True))


def _json(values: dict[str, Any]) -> bytes:
    return json.dumps(values, indent=2, ensure_ascii=False).encode("utf-8") + b"\n"
