"""How byte-level BPE tokenizers cut text into words before merging, as data.

GGUF files name the rule (`tokenizer.ggml.pre`); tokenizer.json spells it out. A wrong rule gives a model that still
talks, but worse, so an unknown one is refused in both directions.

Facts: the names and patterns that llama.cpp's `llama-vocab.cpp` knows, in the spelling of the models' own
tokenizer.json where that is another one for the same language.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from tokenizers import models

from halfpint.errors import UnsupportedError

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_DIGIT = r"\p{N}"

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""What `ByteLevel` with `use_regex` splits by."""

_LLAMA3 = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}"
_QWEN2 = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}"
_QWEN35 = (
    rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}"
    rf"| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_SPACES}"
)
_SEED = (
    rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1}}| ?[^\s\p{{L}}\p{{N}}" + "\r\n]+"
    r"|\s*[" + "\r\n" + r"]+|\s+(?!\S)|\s+"
)
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
    rf"|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"
)
_GPT4O = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_CONTRACTIONS}?|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_CONTRACTIONS}?"
    rf"|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"
)
_BREAKS = "[\r\n]"
# In the models' own files the line breaks stand as they are, not as escapes.
_DEEPSEEK3 = (
    r"\p{N}{1,3}",
    "[一-龥\u3040-ゟ゠-ヿ]+",
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"""
    "|[^\r\n"
    r"\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+"
    f"{_BREAKS}*"
    rf"|\s*{_BREAKS}+|\s+(?!\S)|\s+",
)
# Letters with two cases, by code points: many look like others, and some editors put others in their place.
_CASED = (
    "41-5A 61-7A B5 C0-D6 D8-F6 F8-1BA 1BC-1BF 1C4-293 295-2AF 370-373 376 377 37B-37D 37F 386 388-38A 38C 38E-3A1 "
    "3A3-3F5 3F7-481 48A-52F 531-556 10A0-10C5 13A0-13F5 13F8-13FD 1C90-1CBA 1CBD-1CBF 1D00-1D2B 1D6B-1D77 1D79-1D9A "
    "1E00-1F15 1F18-1F1D 1F20-1F45 1F48-1F4D 1F50-1F57 1F59 1F5B 1F5D 1F5F-1F7D 1F80-1FB4 1FB6-1FBC 1FBE 1FC2-1FC4 "
    "1FC6-1FCC 1FD0-1FD3 1FD6-1FDB 1FE0-1FEC 1FF2-1FF4 1FF6-1FFC 2102 2107 210A-2113 2115 2119-211D 2124 2126 2128 "
    "212A-212D 212F-2134 2139 213C-213F 2145-2149 214E 2183 2184 2C00-2C7B 2C7E-2CE4 2CEB-2CEE 2CF2 2CF3 A640-A66D "
    "A680-A69B A722-A76F A771-A787 A78B-A78E AB70-ABBF FB00-FB06 FB13-FB17 FF21-FF3A FF41-FF5A 10400-1044F "
    "104B0-104D3 104D8-104FB 10C80-10CB2 10CC0-10CF2 118A0-118DF 1E900-1E943"
)
_CASED_CLASS = "".join("-".join(chr(int(end, 16)) for end in part.split("-")) for part in _CASED.split())
_DEEPSEEK_LLM = (
    _BREAKS,
    rf"\s?[{_CASED_CLASS}]+",
    r"\s?[!-/:-~" + "\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+",
    r"\s+$",
    "[一-龥ࠀ-一가-\ud7ff]+",
    _DIGIT,
)
_BAILING = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
_EXAONE_MOE = (
    rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?(?:\p{{L}}\p{{M}}*(?: \p{{L}}\p{{M}}*)*)+|\p{{N}}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+"
)
_JAIS2 = (
    rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+"
    + "".join(rf"|\s{{{count}}}(?!\S)" for count in (512, 256, 128, 64, 32, 16, 8, 4))
    + r"|\s{1,2}(?!\S)|\s{1}"
)
_TINY_AYA = (r"\d{1,3}(?=(?:\d{3})*\b)", _GPT4O)
_FALCON_THREES = "[0-9][0-9][0-9]"
_BLOOM = r" ?[^(\s|.,!?…。，、।۔،)]+"
_PUNCTUATION = r"[\p{P}\$\+<=>\^~\|]+"


@dataclass(frozen=True, slots=True)
class PreTokenizer:
    """One rule.

    Attributes
    ----------
    names : tuple of str
        What `tokenizer.ggml.pre` calls it; the first is written.
    splits : tuple of str
        Regular expressions, each of which cuts the pieces of the one before: matches and what lies between them.
    ignore_merges : bool
        A word that is a token as a whole is not built by merges.
    nfc : bool
        Text is put into Unicode's composed form first. Of llama.cpp's names only those whose models do it.
    adds_bos : bool
        Whether a file that does not say so begins texts with the beginning token.
    """

    names: tuple[str, ...]
    splits: tuple[str, ...]
    ignore_merges: bool = False
    nfc: bool = False
    adds_bos: bool = False


PRE_TOKENIZERS = (
    PreTokenizer(
        ("gpt-2", "phi-2", "gigachat", "a.x-4.0", "mellum", "jais", "trillion", "granite-docling", "exaone4"), (GPT2,)
    ),
    PreTokenizer(("olmo", "mpt"), (GPT2,), nfc=True),
    PreTokenizer(
        ("llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"),
        (_LLAMA3,),
        ignore_merges=True,
        adds_bos=True,
    ),
    PreTokenizer(("dbrx", "smaug-bpe", "glm4", "chatglm-bpe"), (_LLAMA3,)),
    PreTokenizer(("qwen2", "megrez"), (_QWEN2,), nfc=True),
    PreTokenizer(("deepseek-r1-qwen", "stablelm2", "hunyuan", "solar-open", "grok-2", "kormo", "f2llmv2"), (_QWEN2,)),
    PreTokenizer(("qwen35",), (_QWEN35,)),
    PreTokenizer(("smollm", "starcoder", "refact", "codeshell", "exaone", "minerva-7b", "mellum2"), (_DIGIT, GPT2)),
    PreTokenizer(("command-r",), (_DIGIT, GPT2), nfc=True),
    PreTokenizer(("tekken",), (_TEKKEN,), ignore_merges=True, adds_bos=True),
    PreTokenizer(("gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"), (_GPT4O,)),
    PreTokenizer(("seed-coder",), (_SEED,)),
    PreTokenizer(("bailingmoe", "bailingmoe2", "llada-moe"), (_BAILING,)),
    PreTokenizer(("exaone-moe",), (_EXAONE_MOE,)),
    PreTokenizer(("jais-2",), (_JAIS2,)),
    PreTokenizer(("tiny_aya",), _TINY_AYA),
    PreTokenizer(("deepseek-llm",), _DEEPSEEK_LLM),
    PreTokenizer(("deepseek-v3", "hunyuan-dense", "joyai-llm"), _DEEPSEEK3),
    PreTokenizer(("deepseek-coder",), ("[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-\ud7ff]+", _DIGIT)),
    PreTokenizer(("falcon",), (r"[\p{P}\$\+<=>\^~\|`]+", GPT2, "[0-9][0-9][0-9]")),
    PreTokenizer(("bloom", "gpt3-finnish", "poro-chat"), (_BLOOM,)),
    PreTokenizer(("viking",), (_BLOOM, _DIGIT)),
    PreTokenizer(("minicpm5",), (r"\p{N}{1,3}", _LLAMA3.replace("{1,3}", "+")), ignore_merges=True),
    PreTokenizer(("default",), (_PUNCTUATION, GPT2, r"\p{N}+", "[0-9][0-9][0-9]")),
)
"""Every rule that is known."""

_BY_NAME: Mapping[str, PreTokenizer] = MappingProxyType({name: rule for rule in PRE_TOKENIZERS for name in rule.names})


def by_name(name: str) -> PreTokenizer:
    """Look a rule up by GGUF's name for it.

    Raises
    ------
    UnsupportedError
        If it is unknown; the message names it.
    """
    try:
        return _BY_NAME[name]
    except KeyError:
        raise UnsupportedError(
            f"the pre-tokenizer {name!r} is unknown, and another one would cut text wrongly; "
            f"there are: {', '.join(_BY_NAME)}"
        ) from None


def recognise(tokenizer: Mapping[str, Any]) -> PreTokenizer:
    """Find the rule that a byte-level tokenizer.json spells out.

    Parameters
    ----------
    tokenizer : Mapping
        The parsed file.

    Raises
    ------
    UnsupportedError
        If no rule does the same; the message shows what the file asks for.
    """
    nfc = _normalizer(tokenizer.get("normalizer"))
    splits = _splits(tokenizer.get("pre_tokenizer"))
    ignore_merges = bool(tokenizer["model"].get("ignore_merges"))
    alike = [rule for rule in PRE_TOKENIZERS if (rule.splits, rule.nfc) == (splits, nfc)]
    alike.sort(key=lambda rule: rule.ignore_merges != ignore_merges)
    # Where merges lead to every token, it makes no difference whether whole words are looked up first.
    if alike and (alike[0].ignore_merges == ignore_merges or _merges_reach_all(tokenizer)):
        return alike[0]
    raise UnsupportedError(
        f"GGUF has no name for this pre-tokenizer: splits {list(splits)}, "
        f"{'NFC' if nfc else 'no normalizer'}, ignore_merges {ignore_merges}; choose another container"
    )


def _merges_reach_all(tokenizer: Mapping[str, Any]) -> bool:
    """Whether merging the letters of every token that is not added gives that token."""
    model, added = tokenizer["model"], {entry["content"] for entry in tokenizer.get("added_tokens") or ()}
    merges = [tuple(merge.split(" ") if isinstance(merge, str) else merge) for merge in model["merges"]]
    bpe = models.BPE(vocab=dict(model["vocab"]), merges=merges)
    return all(
        token in added or [found.id for found in bpe.tokenize(token)] == [token_id]
        for token, token_id in model["vocab"].items()
    )


def _normalizer(normalizer: Any) -> bool:
    if normalizer is None or normalizer == {"type": "Sequence", "normalizers": []}:
        return False
    if normalizer == {"type": "NFC"}:
        return True
    raise UnsupportedError(f"GGUF has no name for the normalizer {_short(normalizer)}; choose another container")


def _splits(pre_tokenizer: Any) -> tuple[str, ...]:
    steps = [pre_tokenizer]
    if isinstance(pre_tokenizer, dict) and pre_tokenizer.get("type") == "Sequence":
        steps = pre_tokenizer["pretokenizers"]
    if _is_falcon(steps):
        return by_name("falcon").splits
    splits: list[str] = []
    for step in steps:
        splits += _split(step)
    if not _ends_in_bytes(steps):
        raise UnsupportedError(f"GGUF has no name for the pre-tokenizer {_short(pre_tokenizer)}: it is not byte-level")
    return tuple(splits)


def _is_falcon(steps: Sequence[Any]) -> bool:
    """Falcon's own file: runs of punctuation, GPT-2's words as bytes, then digits and threes of them."""
    kinds = [step.get("type") if isinstance(step, dict) else None for step in steps]
    if kinds != ["Punctuation", "ByteLevel", "Digits", "Split"]:
        return False
    punctuation, to_bytes, digits, threes = steps
    return (
        punctuation.get("behavior") == "Contiguous"
        and to_bytes.get("use_regex", True)
        and not to_bytes.get("add_prefix_space")
        and not digits.get("individual_digits")
        and (threes.get("pattern"), threes.get("behavior")) == ({"Regex": _FALCON_THREES}, "Isolated")
    )


def _ends_in_bytes(steps: Sequence[Any]) -> bool:
    """Whether the last step, and only it, turns text into bytes."""
    return [isinstance(step, dict) and step.get("type") == "ByteLevel" for step in steps] == [
        *[False] * (len(steps) - 1),
        True,
    ]


def _split(step: Any) -> tuple[str, ...]:
    """Patterns of one step of tokenizer.json."""
    kind = step.get("type") if isinstance(step, dict) else None
    if kind == "ByteLevel" and not step.get("add_prefix_space"):
        return (GPT2,) if step.get("use_regex", True) else ()
    if kind == "Digits" and step.get("individual_digits"):
        return (_DIGIT,)
    if kind == "Split" and "Regex" in step.get("pattern", {}):
        kept = (step.get("behavior"), bool(step.get("invert")))
        # Removing what does not match is the same as isolating matches where the pattern matches everything,
        # as all patterns do that are written so.
        if kept in (("Isolated", False), ("Removed", True)):
            return (str(step["pattern"]["Regex"]),)
    raise UnsupportedError(f"GGUF has no name for the pre-tokenizer step {_short(step)}; choose another container")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 300 else text[:300] + " ..."
