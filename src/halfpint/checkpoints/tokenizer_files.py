"""The tokenizer of a Hugging Face folder: tokenizer.json and the files that name its special tokens and template."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers

from halfpint.checkpoints.added_tokens import ROLES, add_declared_tokens
from halfpint.checkpoints.regular_file import read_small_file, without_mark
from halfpint.checkpoints.strict_json import read_json_object
from halfpint.errors import CheckpointError, HalfpintError

LARGEST_TOKENIZER = 64 << 20
"""Bytes of tokenizer.json; that of a vocabulary of 262,144 tokens has 33 million."""

LARGEST_VOCABULARY = 1 << 19
"""Tokens; the largest vocabularies of known families have half of that."""

LARGEST_TEMPLATE = 1 << 20
"""Bytes of a chat template; the longest published ones have some ten thousand."""

_LARGEST_SETTINGS = 16 << 20


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """Tokens with a part in every conversation; ids are inside the vocabulary.

    Attributes
    ----------
    bos_id, unk_id, pad_id : int or None
        Begins a text; stands for what is unknown; fills batches.
    eos_ids : tuple of int
        Each ends a text; the tokenizer's own comes first.
    """

    bos_id: int | None
    eos_ids: tuple[int, ...]
    unk_id: int | None
    pad_id: int | None


@dataclass(frozen=True, slots=True)
class TokenizerFiles:
    """What a folder says of its tokenizer.

    Attributes
    ----------
    tokenizer : tokenizers.Tokenizer
        Of tokenizer.json.
    special : SpecialTokens
    chat_template : str or None
        Jinja source; never rendered outside of a sandbox.
    notes : tuple of str
        What the files say that is ignored, or that the model cannot follow.
    """

    tokenizer: tokenizers.Tokenizer
    special: SpecialTokens
    chat_template: str | None
    notes: tuple[str, ...] = ()


def read_tokenizer_files(folder: Path, config: Mapping[str, Any]) -> TokenizerFiles | None:
    """Read a folder's tokenizer; None when it has no tokenizer.json.

    Parameters
    ----------
    folder : Path
        Holds tokenizer.json and, perhaps, tokenizer_config.json, special_tokens_map.json, added_tokens.json,
        generation_config.json and chat_template.jinja.
    config : Mapping
        The model's configuration, in Hugging Face's words.

    Raises
    ------
    CheckpointError
        If a file is too large or broken, or two files give a token different ids.
    """
    if not has_tokenizer_files(folder):
        return None
    data = read_small_file(folder / "tokenizer.json", LARGEST_TOKENIZER)
    tokenizer = parse_tokenizer(data, "tokenizer.json")
    settings = _optional_object(folder / "tokenizer_config.json")
    mapped = _without_none(_optional_object(folder / "special_tokens_map.json"))
    if "added_tokens_decoder" in settings:  # then transformers does not read the older files
        named = {**{role: mapped[role] for role in ROLES if role in mapped}, **_without_none(settings)}
    else:
        named = {**_without_none(settings), **mapped}
    rows = _rows(config)
    with tokenizer_errors("tokenizer.json"):
        notes = add_declared_tokens(tokenizer, named, _optional_object(folder / "added_tokens.json"), rows)
    notes += _rows_missing(tokenizer, rows)
    stated = [("generation_config.json", _optional_object(folder / "generation_config.json")), ("config.json", config)]
    special = _special_tokens(tokenizer, named, stated, notes)
    return TokenizerFiles(tokenizer, special, _chat_template(folder, settings), tuple(notes))


def has_tokenizer_files(folder: Path) -> bool:
    """Whether a folder has a tokenizer.json; parses nothing."""
    return os.path.lexists(folder / "tokenizer.json")


@contextmanager
def tokenizer_errors(what: str) -> Iterator[None]:
    """Turn whatever the `tokenizers` library raises inside into a CheckpointError about `what`.

    A hostile tokenizer.json can be accepted and fail only at its first text.
    """
    try:
        yield
    except HalfpintError:
        raise
    except Exception as error:
        raise CheckpointError(f"{what}: {str(error)[:300]}") from error
    except BaseException as error:
        # A panic in Rust arrives as an exception that is none of Exception's.
        if type(error).__name__ != "PanicException":
            raise
        raise CheckpointError(f"{what}: the tokenizer contradicts itself ({str(error)[:200]})") from error


def parse_tokenizer(data: bytes, what: str) -> tokenizers.Tokenizer:
    """Parse tokenizer.json; what it says of truncation, padding and dropout is switched off.

    Raises
    ------
    CheckpointError
        If it is not accepted, or has ids far beyond any vocabulary.
    """
    with tokenizer_errors(f"{what} is no tokenizer"):
        tokenizer = tokenizers.Tokenizer.from_buffer(without_mark(data, what))
        size = vocabulary_size(tokenizer)
        # What was saved for training: texts are cut, filled or split at random only where a caller asks for it.
        tokenizer.no_truncation()
        tokenizer.no_padding()
        if getattr(tokenizer.model, "dropout", None) is not None:
            tokenizer.model.dropout = None
    if size > LARGEST_VOCABULARY:  # the library walks over all ids up to the largest, and ends the process on the way
        raise CheckpointError(f"{what} has ids up to {size - 1}; vocabularies have at most {LARGEST_VOCABULARY}")
    return tokenizer


def vocabulary_size(tokenizer: tokenizers.Tokenizer) -> int:
    """One more than the largest id: ids may have holes."""
    return max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1


def _optional_object(path: Path) -> Mapping[str, Any]:
    return read_json_object(path, _LARGEST_SETTINGS) if os.path.lexists(path) else {}


def _without_none(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if value is not None}


def _rows(config: Mapping[str, Any]) -> int | None:
    width = config.get("vocab_size")
    return width if isinstance(width, int) and not isinstance(width, bool) else None


def _rows_missing(tokenizer: tokenizers.Tokenizer, rows: int | None) -> list[str]:
    """A note on added tokens beyond the embedding (published Gemma 3 has one); others contradict the model."""
    if rows is None or vocabulary_size(tokenizer) <= rows:
        return []
    beyond = sorted(token_id for token_id in tokenizer.get_added_tokens_decoder() if token_id >= rows)
    plain = max(tokenizer.get_vocab(with_added_tokens=False).values(), default=-1)
    if plain >= rows and plain not in beyond:
        raise CheckpointError(
            f"tokenizer.json has ids up to {plain}, but the model has {rows} rows of embeddings: they are not of one "
            "model, or one of them was resized; take both from the same release"
        )
    names = ", ".join(repr(tokenizer.id_to_token(token_id))[:80] for token_id in beyond[:5])
    return [f"{len(beyond)} added tokens have no row in the embedding, and texts with them are refused: {names}"]


def _special_tokens(
    tokenizer: tokenizers.Tokenizer,
    named: Mapping[str, Any],
    stated: Sequence[tuple[str, Mapping[str, Any]]],
    notes: list[str],
) -> SpecialTokens:
    size = max(vocabulary_size(tokenizer), *(_rows(values) or 0 for _, values in stated))
    unknown = getattr(tokenizer.model, "unk_token", None)  # what the tokenizer really gives for the unknown
    named = named if unknown is None else {**named, "unk_token": unknown}

    def ids(role: str) -> tuple[int, ...]:
        found = [_named_id(tokenizer, named, f"{role}_token")]
        for file, values in stated:
            found += _ids(values, f"{role}_token_id", size, (file, notes))
        return tuple(dict.fromkeys(token for token in found if token is not None))

    bos, pad = ids("bos"), ids("pad")
    return SpecialTokens(
        bos_id=bos[0] if bos else None,
        eos_ids=ids("eos"),
        unk_id=_named_id(tokenizer, named, "unk_token"),
        pad_id=pad[0] if pad else None,
    )


def _named_id(tokenizer: tokenizers.Tokenizer, named: Mapping[str, Any], role: str) -> int | None:
    """Id of the token that a settings file gives a role, as text or as an object with its text; None without one."""
    token = named.get(role)
    if isinstance(token, dict):
        token = token.get("content")
    found = tokenizer.token_to_id(token) if isinstance(token, str) else None
    return None if found is None else int(found)


def _ids(values: Mapping[str, Any], key: str, size: int, notes: tuple[str, list[str]]) -> Iterator[int]:
    """Ids under a key that holds one, several, or null; a negative one means none, one beyond the vocabulary a note."""
    file, noted = notes
    value = values.get(key)
    for token in value if isinstance(value, list) else [value]:
        if token is None:
            continue
        if isinstance(token, bool) or not isinstance(token, int):
            raise CheckpointError(f"{file}: {key} is {str(token)[:80]}, which is no token id")
        if token >= size:
            noted.append(f"{file}: {key} is {str(token)[:80]}, but the vocabulary has {size} tokens: it is ignored")
        elif token >= 0:
            yield token


def _chat_template(folder: Path, settings: Mapping[str, Any]) -> str | None:
    """Give the template: chat_template.jinja comes before tokenizer_config.json, as in transformers."""
    path = folder / "chat_template.jinja"
    if os.path.lexists(path):
        try:
            return without_mark(read_small_file(path, LARGEST_TEMPLATE), str(path)).decode("utf-8")
        except UnicodeDecodeError as error:
            raise CheckpointError(f"{path} is not UTF-8 at byte {error.start}") from error
    template = settings.get("chat_template")
    if isinstance(template, list):  # several, each with a name
        named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
        template = named.get("default")
    if template is None:
        return None
    if not isinstance(template, str) or len(template) > LARGEST_TEMPLATE:
        raise CheckpointError(f"tokenizer_config.json: chat_template is no text of at most {LARGEST_TEMPLATE} bytes")
    return template
