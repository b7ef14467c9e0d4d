"""A tokenizer from GGUF metadata, every list checked before it is used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import tokenizers
from numpy.typing import NDArray
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers

from halfpint.checkpoints import pretokenizers
from halfpint.checkpoints.gguf_metadata import Metadata
from halfpint.checkpoints.gguf_tokenizer import (
    ADDED_TOKENS_KEY,
    BYTE_TOKEN,
    SPACE_PREFIX_KEY,
    STOP_TOKENS_KEY,
    TokenType,
)
from halfpint.checkpoints.sentencepiece import METASPACE, SpacePrefix, merges_of_scores
from halfpint.checkpoints.strict_json import parse_json
from halfpint.checkpoints.tokenizer_files import LARGEST_TEMPLATE, LARGEST_VOCABULARY, SpecialTokens, tokenizer_errors
from halfpint.errors import CheckpointError, UnsupportedError
from halfpint.tokenization.tokenizer import Tokenizer

_LONGEST_TOKEN = 4096
_KEY = "tokenizer.ggml."

# Control tokens that end an answer whatever the metadata say, by their text, as llama.cpp has it: files that name
# only one end exist in numbers, and a model that does not stop is the complaint.
_ENDS = (
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|eom_id|>",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<｜end▁of▁sentence｜>",
)


_FLAGS = ("lstrip", "rstrip", "single_word", "normalized")
_NORMALIZED = {"normalized": False}
# Special tokens of Phi-3 after which llama.cpp leaves the space.
_PHI3_KEPT = frozenset({"<unk>", "<s>", "<|endoftext|>"})


@dataclass(frozen=True, slots=True)
class _Vocabulary:
    """Tokens in the order of their ids, and the type of each."""

    tokens: Sequence[str]
    ids: Mapping[str, int]
    types: NDArray[np.int64]
    file: str
    decoded_as: Mapping[int, int]
    """Tokens whose text another one has, by the id of that one; -1 for tokens without text."""
    notes: list[str]

    def of_types(self, *types: TokenType) -> dict[str, int]:
        """Tokens of these types, with their ids."""
        chosen = np.isin(self.types, [int(kind) for kind in types])
        return {
            self.tokens[token_id]: token_id
            for token_id in np.flatnonzero(chosen).tolist()
            if token_id not in self.decoded_as
        }


def spells_tokenizer(metadata: Metadata) -> bool:
    """Whether a GGUF file says that it has a tokenizer, of whatever kind."""
    return metadata.text(_KEY + "model") not in (None, "none", "no_vocab")


def tokenizer_from_metadata(metadata: Metadata) -> Tokenizer:
    """Build the tokenizer that a GGUF file spells out.

    Raises
    ------
    CheckpointError
        If its lists contradict each other, or an id is outside the vocabulary.
    UnsupportedError
        If its kind or its pre-tokenizer is not known, or the file has none.
    """
    kind = metadata.text(_KEY + "model")
    if not spells_tokenizer(metadata):
        raise UnsupportedError(f"{metadata.file} has no tokenizer; convert the model again, from a folder that has one")
    if kind not in ("gpt2", "llama"):
        raise UnsupportedError(
            f"{metadata.file}: no tokenizer of kind {kind!r} is known here; known are gpt2 and llama"
        )
    vocabulary = _vocabulary(metadata)
    special = _special_tokens(metadata, vocabulary)
    with tokenizer_errors(metadata.file):
        if kind == "gpt2":
            model, adds_bos = _byte_level(metadata, vocabulary)
        else:
            model, adds_bos = _sentencepiece(metadata, vocabulary, special), True
        _add_special(model, vocabulary, _added(metadata, vocabulary))
    before = _around(metadata, "bos", special.bos_id, adds_bos)
    after = _around(metadata, "eos", next(iter(special.eos_ids), None), False)
    template = metadata.text("tokenizer.chat_template")
    if template is not None and len(template) > LARGEST_TEMPLATE:
        raise CheckpointError(f"{metadata.file}: the chat template has {len(template)} characters; it is not read")
    return Tokenizer(model, special, before, after, template, tuple(vocabulary.notes), vocabulary.decoded_as)


def _vocabulary(metadata: Metadata) -> _Vocabulary:
    stored = metadata.texts(_KEY + "tokens")
    if stored is None or not len(stored):
        raise CheckpointError(f"{metadata.file}: {_KEY}tokens is missing or empty, so there is no vocabulary")
    if len(stored) > LARGEST_VOCABULARY:
        raise CheckpointError(f"{metadata.file}: {len(stored)} tokens; more than {LARGEST_VOCABULARY} are not read")
    tokens = list(stored)
    types = metadata.integers(_KEY + "token_type")
    types = np.ones(len(tokens), np.int64) if types is None else types.astype(np.int64)
    if len(types) != len(tokens):
        raise CheckpointError(f"{metadata.file}: {_KEY}token_type has {len(types)} entries for {len(tokens)} tokens")
    if types.min() < 0 or types.max() > max(TokenType):
        raise CheckpointError(f"{metadata.file}: {_KEY}token_type holds {types.min()} to {types.max()}; 0 to 6 exist")
    if max(map(len, tokens)) > _LONGEST_TOKEN:
        raise CheckpointError(f"{metadata.file}: a token is longer than {_LONGEST_TOKEN} characters")
    notes: list[str] = []
    decoded_as = _repeated(tokens, notes)
    ids = {token: token_id for token_id, token in enumerate(tokens)}
    return _Vocabulary(tokens, ids, types, metadata.file, decoded_as, notes)


def _repeated(tokens: list[str], notes: list[str]) -> dict[int, int]:
    """Give tokens that are empty or read like an earlier one a name that no text makes; -1, or that one's id."""
    first: dict[str, int] = {}
    found: dict[int, int] = {}
    for token_id, token in enumerate(tokens):
        if not token:
            found[token_id] = -1
        elif first.setdefault(token, token_id) != token_id:
            found[token_id] = first[token]
    for token_id, other in found.items():
        said = "is empty" if other < 0 else f"reads like token {other}, {tokens[token_id][:40]!r}, and is never made"
        notes.append(f"token {token_id} of the vocabulary {said}")
        name = f"[UNREACHABLE {token_id}]"
        while name in first:
            name += "]"
        tokens[token_id] = name
    return found


def _id(metadata: Metadata, role: str, vocabulary: _Vocabulary) -> int | None:
    """A token with a part; none where the number is no token's, which is noted."""
    key, size = f"{_KEY}{role}_token_id", len(vocabulary.tokens)
    token = metadata.integer(key)
    if token is None or 0 <= token < size:
        return token
    if 0 <= token < (1 << 32) - 1:  # -1 means none
        vocabulary.notes.append(f"{key} is {token}, which is ignored: the vocabulary has {size} tokens")
    return None


def _special_tokens(metadata: Metadata, vocabulary: _Vocabulary) -> SpecialTokens:
    ends = [_id(metadata, role, vocabulary) for role in ("eos", "eot", "eom")]
    control = vocabulary.of_types(TokenType.CONTROL)
    ends += [control.get(text) for text in _ENDS]
    eos_ids = tuple(dict.fromkeys(token for token in ends if token is not None))
    said = metadata.integers(STOP_TOKENS_KEY)
    if said is not None:
        eos_ids = tuple(token for token in said.tolist() if 0 <= token < len(vocabulary.tokens))
    unknown = _id(metadata, "unknown", vocabulary)
    if unknown is None:
        unknown = next(iter(vocabulary.of_types(TokenType.UNKNOWN).values()), None)
    return SpecialTokens(_id(metadata, "bos", vocabulary), eos_ids, unknown, _id(metadata, "padding", vocabulary))


def _around(metadata: Metadata, role: str, token: int | None, default: bool) -> tuple[int, ...]:
    """Tokens that stand at one end of every text."""
    said = metadata.flag(f"{_KEY}add_{role}_token")
    if said and token is None:
        raise CheckpointError(f"{metadata.file}: {_KEY}add_{role}_token is true, but there is no {role} token")
    return (token,) if token is not None and (default if said is None else said) else ()


def _flag(metadata: Metadata, name: str, default: bool) -> bool:
    value = metadata.flag(_KEY + name)
    return default if value is None else value


def _byte_level(metadata: Metadata, vocabulary: _Vocabulary) -> tuple[tokenizers.Tokenizer, bool]:
    name = metadata.text(_KEY + "pre")
    if name is None:
        raise UnsupportedError(
            f"{metadata.file} does not say how text is cut before merging ({_KEY}pre); convert the model again"
        )
    rule = pretokenizers.by_name(name)
    merges = _merges(metadata, vocabulary)
    model = tokenizers.Tokenizer(
        models.BPE(vocab=dict(vocabulary.ids), merges=merges, ignore_merges=rule.ignore_merges)
    )
    if rule.nfc:
        model.normalizer = normalizers.NFC()
    cuts = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in rule.splits]
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    model.pre_tokenizer = pre_tokenizers.Sequence([*cuts, to_bytes])
    model.decoder = decoders.ByteLevel()
    return model, rule.adds_bos


def _merges(metadata: Metadata, vocabulary: _Vocabulary) -> list[tuple[str, str]]:
    stored = metadata.texts(_KEY + "merges")
    if stored is None:
        raise CheckpointError(f"{metadata.file}: {_KEY}merges is missing")
    ids = vocabulary.ids
    merges, unusable = [], 0
    for index, merge in enumerate(stored):
        first, space, second = merge.partition(" ")
        if not (first and space and second) or " " in second:
            raise CheckpointError(f"{metadata.file}: {_KEY}merges[{index}] is {merge[:80]!r}, not two tokens")
        if first not in ids or second not in ids or first + second not in ids:
            unusable += 1
            continue
        merges.append((first, second))
    if unusable:
        vocabulary.notes.append(f"{unusable} of {len(stored)} merges join what are no tokens, and are skipped")
    return merges


def _sentencepiece(metadata: Metadata, vocabulary: _Vocabulary, special: SpecialTokens) -> tokenizers.Tokenizer:
    scores = metadata.floats(_KEY + "scores")
    if scores is None or len(scores) != len(vocabulary.tokens):
        found = "no" if scores is None else len(scores)
        raise CheckpointError(f"{metadata.file}: {_KEY}scores has {found} entries for {len(vocabulary.tokens)} tokens")
    if np.isnan(scores).any():
        raise CheckpointError(f"{metadata.file}: {_KEY}scores holds NaN at {int(np.isnan(scores).argmax())}")
    single_bytes = vocabulary.of_types(TokenType.BYTE)
    for token, token_id in single_bytes.items():
        if BYTE_TOKEN.fullmatch(token) is None:
            raise CheckpointError(f"{metadata.file}: token {token_id} is a byte, but reads {token[:80]!r}, not <0xNN>")
    if single_bytes and len(single_bytes) != 256:
        vocabulary.notes.append(f"{256 - len(single_bytes)} of 256 byte tokens are missing; such bytes are unknown")
    merges = merges_of_scores(vocabulary.of_types(TokenType.NORMAL, TokenType.UNUSED), scores)
    model = tokenizers.Tokenizer(
        models.BPE(
            vocab=dict(vocabulary.ids),
            merges=merges,
            unk_token=None if special.unk_id is None else vocabulary.tokens[special.unk_id],
            fuse_unk=True,
            byte_fallback=bool(single_bytes),
        )
    )
    prefix = _space_prefix(metadata)
    _put_spaces(model, prefix)
    unescape = [decoders.Replace(METASPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if prefix is not SpacePrefix.NEVER:
        unescape.append(decoders.Strip(" ", 1, 0))
    model.decoder = decoders.Sequence(unescape)
    return model


def _space_prefix(metadata: Metadata) -> SpacePrefix:
    said = metadata.text(SPACE_PREFIX_KEY)
    if said is None:
        return SpacePrefix.ALWAYS if _flag(metadata, "add_space_prefix", True) else SpacePrefix.NEVER
    try:
        return SpacePrefix(said)
    except ValueError:
        raise UnsupportedError(f"{metadata.file}: {SPACE_PREFIX_KEY} is {said[:80]!r}, which is unknown") from None


def _put_spaces(model: tokenizers.Tokenizer, prefix: SpacePrefix) -> None:
    escape = normalizers.Replace(" ", METASPACE)
    match prefix:
        case SpacePrefix.NEVER:
            model.normalizer = escape
        case SpacePrefix.ALWAYS:
            model.normalizer = normalizers.Sequence([normalizers.Prepend(METASPACE), escape])
        case SpacePrefix.MISSING:
            model.pre_tokenizer = pre_tokenizers.Metaspace(METASPACE, prepend_scheme="always", split=False)
        case SpacePrefix.FIRST_MISSING:
            model.pre_tokenizer = pre_tokenizers.Metaspace(METASPACE, prepend_scheme="first", split=False)


_Flags = Mapping[int, dict[str, bool]]


def _added(metadata: Metadata, vocabulary: _Vocabulary) -> _Flags:
    """By id, what added tokens do with the text around them: by our own key, else by llama.cpp's rule.

    llama.cpp (`impl::load` in its llama-vocab.cpp) has no word for that in the file. It takes the space after special
    tokens away in models whose name says Phi-3.
    """
    said = metadata.text(ADDED_TOKENS_KEY)
    if said is None:
        name = (metadata.text("general.name") or "").lower()
        if not any(word in name for word in ("phi-3", "phi3")):
            return {}
        special = vocabulary.of_types(TokenType.CONTROL, TokenType.USER_DEFINED, TokenType.UNKNOWN)
        return {token_id: {"rstrip": True} for token, token_id in special.items() if token not in _PHI3_KEPT}
    told = parse_json(said.encode(), f"{metadata.file}: {ADDED_TOKENS_KEY}")
    found = {}
    for key, value in told.items() if isinstance(told, dict) else ():
        flags = {flag: True for flag in _FLAGS if isinstance(value, dict) and value.get(flag) is True}
        if key.isdecimal() and int(key) < len(vocabulary.tokens):
            found[int(key)] = flags
    return found


def _add_special(model: tokenizers.Tokenizer, vocabulary: _Vocabulary, added: _Flags) -> None:
    """Have special and user-defined tokens matched in the text before anything else."""
    control = vocabulary.of_types(TokenType.CONTROL, TokenType.UNKNOWN)
    model.add_special_tokens(
        [AddedToken(text, special=True, **_NORMALIZED | added.get(number, {})) for text, number in control.items()]
    )
    defined = vocabulary.of_types(TokenType.USER_DEFINED)
    model.add_tokens(
        [AddedToken(text, special=False, **_NORMALIZED | added.get(number, {})) for text, number in defined.items()]
    )
