"""SentencePiece's BPE and the BPE of tokenizer.json: the same merges, told by scores or by a list.

SentencePiece joins the neighbouring pair whose union has the highest score, the leftmost first, until no union is a
token. tokenizer.json lists pairs in the order in which they are joined. Ranking every way to cut every token by the
token's score turns the first into the second (as transformers' converter does); going back needs the list to be
complete and in the order of the tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halfpint.errors import CheckpointError, UnsupportedError

METASPACE = "▁"
"""Stands for a space in tokens."""

MOST_CUTS = 4_000_000
"""Ways to cut all tokens in two, which bounds the time to rank them; the largest vocabulary has half of it."""


class SpacePrefix(StrEnum):
    """When a space is put before a text.

    GGUF knows the first two, which are SentencePiece's. The others are what transformers makes of them in some
    models; llama.cpp reads those as `always`, and differs where a text begins with a space or follows a special token.
    """

    ALWAYS = "always"
    NEVER = "never"
    MISSING = "missing"
    """Unless it begins with one."""
    FIRST_MISSING = "first missing"
    """Unless it begins with one or stands after a special token."""


_REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": METASPACE}
_PREPEND = {"type": "Prepend", "prepend": METASPACE}
# Cutting at spaces after all of them were replaced cuts nothing.
_NO_CUT = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}


def space_prefix(spelled: Mapping[str, Any]) -> SpacePrefix:
    """When a tokenizer.json that works like SentencePiece puts a space before a text.

    Raises
    ------
    UnsupportedError
        If it does not work like SentencePiece; the message shows what is unknown.
    """
    normalizer: dict[str, Any] = spelled.get("normalizer") or {}
    pre_tokenizer: dict[str, Any] = spelled.get("pre_tokenizer") or {}
    steps = normalizer["normalizers"] if normalizer.get("type") == "Sequence" else [normalizer]
    steps = [step for step in steps if step]
    if pre_tokenizer in ({}, _NO_CUT) and steps in ([_PREPEND, _REPLACE], [_REPLACE]):
        return SpacePrefix.ALWAYS if len(steps) == 2 else SpacePrefix.NEVER
    if not steps and pre_tokenizer.get("type") == "Metaspace":
        return _metaspace_prefix(spelled, pre_tokenizer)
    raise UnsupportedError(
        f"GGUF has no name for this tokenizer: normalizer {str(normalizer)[:300]}, "
        f"pre-tokenizer {str(pre_tokenizer)[:300]}; choose another container"
    )


def _metaspace_prefix(spelled: Mapping[str, Any], step: Mapping[str, Any]) -> SpacePrefix:
    if step.get("replacement") != METASPACE:
        raise UnsupportedError(f"GGUF writes spaces as {METASPACE}, this tokenizer as {step.get('replacement')!r}")
    if step.get("split", True) and any(METASPACE in token[1:] for token in spelled["model"]["vocab"]):
        raise UnsupportedError(
            "this tokenizer cuts texts at every space though it has tokens with a space inside; "
            "llama.cpp would join them: choose another container"
        )
    schemes = {"always": SpacePrefix.MISSING, "first": SpacePrefix.FIRST_MISSING, "never": SpacePrefix.NEVER}
    return schemes[step["prepend_scheme"]]


def scores_of_merges(
    ids: Mapping[str, int], normal: Sequence[bool], merges: Sequence[tuple[str, str]]
) -> NDArray[np.float32]:
    """Scores by which SentencePiece joins what the list of merges joins.

    Parameters
    ----------
    ids : Mapping of str to int
        Every token and its id.
    normal : sequence of bool
        By id: tokens that are not special in any way.
    merges : sequence of (str, str)
        In the order of tokenizer.json.

    Returns
    -------
    float32 [vocabulary]
        -1 for the token joined first, -2 for the next ...; 0 for tokens that are not joined.

    Raises
    ------
    UnsupportedError
        If no scores do the same.
    """
    scores = np.zeros(len(normal), np.float32)
    rank = 0
    last = ""
    for first, second in merges:
        joined = first + second
        if joined == last:
            continue
        token_id = ids.get(joined)
        if token_id is not None and not normal[token_id]:
            continue  # an added token: matched before anything is joined
        if token_id is None or scores[token_id]:
            raise UnsupportedError(
                f"the merges of tokenizer.json join {joined!r} out of turn, which scores cannot say; "
                "choose another container"
            )
        rank += 1
        scores[token_id] = -rank
        last = joined
    missing = set(_cuts({token: token_id for token, token_id in ids.items() if normal[token_id]})) - set(merges)
    if missing:
        first, second = min(missing)
        raise UnsupportedError(
            f"tokenizer.json never joins {first!r} and {second!r}, though both and {first + second!r} are tokens; "
            "llama.cpp would: choose another container"
        )
    return scores


def merges_of_scores(tokens: Mapping[str, int], scores: NDArray[np.float32]) -> list[tuple[str, str]]:
    """List the merges that scores stand for, in the order of joining.

    Parameters
    ----------
    tokens : Mapping of str to int
        Ids of the tokens that joining can give.
    scores : float32 [vocabulary]
        By id.

    Raises
    ------
    CheckpointError
        If the tokens are so long that ranking them would not end.
    """
    cuts = _cuts(tokens)
    cuts.sort(key=lambda cut: (-float(scores[tokens[cut[0] + cut[1]]]), tokens[cut[0]], tokens[cut[1]]))
    return cuts


def _cuts(tokens: Mapping[str, int]) -> list[tuple[str, str]]:
    """Every way to cut a token into two tokens."""
    if sum(map(len, tokens)) > MOST_CUTS:
        raise CheckpointError(f"the vocabulary has more than {MOST_CUTS} characters; the file is damaged or hostile")
    cuts = []
    longest = max(map(len, tokens), default=0)
    if longest > 4096:
        raise CheckpointError(f"a token has {longest} characters; the file is damaged or hostile")
    for token in tokens:
        for end in range(1, len(token)):
            first, second = token[:end], token[end:]
            if first in tokens and second in tokens:
                cuts.append((first, second))
    return cuts
