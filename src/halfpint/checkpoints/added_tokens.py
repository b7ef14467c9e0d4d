"""Added tokens that only the files beside tokenizer.json name.

The rules are those of transformers 5 (`TokenizersBackend`): `added_tokens_decoder` of tokenizer_config.json, or else
the older added_tokens.json and special_tokens_map.json; then the tokens with a role and the extra special tokens. A
token that tokenizer.json knows keeps its id; a new one takes the next id.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import tokenizers
from tokenizers import AddedToken

from halfpint.errors import CheckpointError

ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
"""Keys of tokenizer_config.json that give one token a role."""

_FLAGS = ("lstrip", "rstrip", "single_word", "normalized", "special")


def add_declared_tokens(
    tokenizer: tokenizers.Tokenizer,
    settings: Mapping[str, Any],
    added: Mapping[str, Any],
    rows: int | None,
) -> list[str]:
    """Add to a tokenizer what its side files declare.

    Parameters
    ----------
    tokenizer : tokenizers.Tokenizer
        Of tokenizer.json; changed in place.
    settings : Mapping
        tokenizer_config.json, merged with special_tokens_map.json where that counts.
    added : Mapping of str to int
        added_tokens.json: text to id. Read only where `settings` has no `added_tokens_decoder`.
    rows : int or None
        Rows of the model's embedding, where known.

    Returns
    -------
    list of str
        Notes on tokens that were left out or have no row.

    Raises
    ------
    CheckpointError
        If a declaration is malformed, or gives a new token an id that is not the next one.
    """
    if "added_tokens_decoder" in settings:
        declared = dict(_decoder_entries(settings["added_tokens_decoder"]))
        file = "tokenizer_config.json: added_tokens_decoder"
    else:
        known = tokenizer.get_added_tokens_decoder()
        declared = {i: token for i, token in _legacy_entries(added, settings) if i not in known}
        file = "added_tokens.json"
    notes = _add_with_ids(tokenizer, declared, {token.content for token in _role_tokens(settings).values()}, file)
    notes += _add_roles(tokenizer, settings, rows)
    present = {token.content for token in tokenizer.get_added_tokens_decoder().values()}
    tokenizer.add_tokens([token for token in _extra_tokens(settings) if token.content not in present])
    return notes


def _decoder_entries(value: Any) -> Iterator[tuple[int, AddedToken]]:
    if not isinstance(value, dict):
        raise CheckpointError("tokenizer_config.json: added_tokens_decoder must be an object of ids")
    for key, entry in value.items():
        if not key.isdecimal() or len(key) > 9:
            raise CheckpointError(f"tokenizer_config.json: added_tokens_decoder has {key[:80]!r}, which is no id")
        yield int(key), _token(entry, f"added_tokens_decoder[{key}]", special=False)


def _legacy_entries(added: Mapping[str, Any], settings: Mapping[str, Any]) -> Iterator[tuple[int, AddedToken]]:
    special = {token.content for token in (*_role_tokens(settings).values(), *_extra_tokens(settings))}
    for text, token_id in added.items():
        if isinstance(token_id, bool) or not isinstance(token_id, int) or token_id < 0:
            raise CheckpointError(f"added_tokens.json: {text[:80]!r} has {str(token_id)[:80]!r} for an id")
        yield token_id, AddedToken(text, special=text in special, normalized=text not in special)


def _add_with_ids(
    tokenizer: tokenizers.Tokenizer, declared: Mapping[int, AddedToken], roles: set[str], file: str
) -> list[str]:
    notes = []
    same = {repr(token) for token in tokenizer.get_added_tokens_decoder().values()}
    for token_id, token in sorted(declared.items(), key=lambda item: item[0]):
        if repr(token) in same or not token.content:
            continue
        if not token.special and token.content in roles:
            token.special = True
        known = tokenizer.token_to_id(token.content) is not None
        tokenizer.add_tokens([token])
        found = tokenizer.token_to_id(token.content)
        if found == token_id:
            continue
        spelled = f"{file} gives {token.content[:80]!r} the id {token_id}"
        if not known:
            raise CheckpointError(
                f"{spelled}, but the next free id is {found}; make them agree, for example with transformers' "
                "AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)"
            )
        notes.append(f"{spelled}; tokenizer.json has it as {found}, which is used")
    return notes


def _add_roles(tokenizer: tokenizers.Tokenizer, settings: Mapping[str, Any], rows: int | None) -> list[str]:
    notes = []
    for role, token in _role_tokens(settings).items():
        present = {entry.content for entry in tokenizer.get_added_tokens_decoder().values()}
        if token.content in present or not token.content:
            continue
        found = tokenizer.token_to_id(token.content)
        if found is None:
            free = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1
            if rows is not None and free >= rows:
                notes.append(
                    f"{role} is {token.content[:80]!r}, which tokenizer.json does not have and the model has no row "
                    "for: it is ignored"
                )
                continue
        elif role == "pad_token" and tokenizer.encode(token.content, add_special_tokens=False).ids == [found]:
            continue  # an ordinary token ("!") that also pads batches: made special, it would vanish from answers
        token.special = True
        tokenizer.add_tokens([token])
    return notes


def _role_tokens(settings: Mapping[str, Any]) -> dict[str, AddedToken]:
    return {
        role: _token(settings[role], role, special=True) for role in ROLES if settings.get(role) not in (None, False)
    }


def _extra_tokens(settings: Mapping[str, Any]) -> list[AddedToken]:
    """Special tokens without a role that transformers knows: lists, objects, and other keys named `*_token`."""
    found = []
    key = "extra_special_tokens" if settings.get("extra_special_tokens") else "additional_special_tokens"
    extra = settings.get(key) or []
    if not isinstance(extra, list | dict):
        raise CheckpointError(f"tokenizer_config.json: {key} must be a list or an object")
    for name, value in settings.items():
        if name.endswith("_token") and name not in ROLES and isinstance(value, str):
            found.append(_token(value, name, special=True))
    for value in extra.values() if isinstance(extra, dict) else extra:
        found.append(_token(value, key, special=True))
    return [token for token in found if token.content]


def _token(value: Any, where: str, *, special: bool) -> AddedToken:
    """A token spelled as text, or as an object with `content` and flags."""
    if isinstance(value, str):
        return AddedToken(value, special=special)
    if not isinstance(value, dict) or not isinstance(value.get("content"), str):
        raise CheckpointError(f"tokenizer_config.json: {where} must be a text, but is {str(value)[:80]!r}")
    flags = {name: value[name] for name in _FLAGS if value.get(name) is not None}
    if any(not isinstance(flag, bool) for flag in flags.values()):
        raise CheckpointError(f"tokenizer_config.json: {where} has a flag that is neither true nor false")
    return AddedToken(value["content"], **{"special": special, **flags})
