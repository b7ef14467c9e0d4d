"""Tokens of single bytes (`<0xE2>`), decoded part by part.

The `tokenizers` library turns a whole run of byte tokens into U+FFFD when one of them is wrong. Here only the broken
part is replaced: the run is split where Python's UTF-8 decoder splits it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence

import tokenizers

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_BROKEN = "\ufffd"


def decode_bytes_apart(model: tokenizers.Tokenizer, ids: Sequence[int], text: str) -> str:
    """Decode tokens of which some bytes are no UTF-8.

    Parameters
    ----------
    model : tokenizers.Tokenizer
    ids : sequence of int
    text : str
        What the library makes of them; it is right unless the tokenizer spells bytes as tokens.

    Returns
    -------
    str
        With one U+FFFD per broken part (Unicode 16, 3.9, "substitution of maximal subparts").
    """
    if model.decoder is None or "ByteFallback" not in _kinds(json.loads(model.decoder.__getstate__())):
        return text
    special = {token.content for token in model.get_added_tokens_decoder().values() if token.special}
    tokens = [token for token in map(model.id_to_token, ids) if token is not None and token not in special]
    return str(model.decoder.decode(list(_sound(tokens))))


def _kinds(decoder: dict[str, object]) -> set[object]:
    """Types of a decoder and of those in it."""
    parts = decoder.get("decoders")
    inside = [_kinds(part) for part in parts] if isinstance(parts, list) else []
    return {decoder.get("type")}.union(*inside)


def _sound(tokens: Sequence[str]) -> Iterator[str]:
    """The same tokens with U+FFFD in the place of bytes that are no part of a character."""
    run: list[str] = []
    for token in tokens:
        if _BYTE.fullmatch(token):
            run.append(token)
            continue
        yield from _sound_run(run)
        run = []
        yield token
    yield from _sound_run(run)


def _sound_run(run: Sequence[str]) -> Iterator[str]:
    data = bytes(int(token[3:5], 16) for token in run)
    start = 0
    while start < len(data):
        try:
            str(memoryview(data)[start:], "utf-8")
        except UnicodeDecodeError as error:
            yield from run[start : start + error.start]
            yield _BROKEN
            start += error.end
        else:
            yield from run[start:]
            return
