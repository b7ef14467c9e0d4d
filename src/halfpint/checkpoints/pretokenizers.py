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
_DEEPSEEK3 = (
    r"\p{N}{1,3}",
    "[一-龥\u3040-ゟ゠-ヿ]+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^"
    "\r\n"
    r"\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+["
    "\r\n"
    r"]*|\s*["
    "\r\n"
    r"]+|\s+(?!\S)|\s+",
)
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
    PreTokenizer(("qwen35",), (_QWEN35,), nfc=True),
    PreTokenizer(("smollm", "starcoder", "refact", "codeshell", "exaone", "minerva-7b", "mellum2"), (_DIGIT, GPT2)),
    PreTokenizer(("command-r",), (_DIGIT, GPT2), nfc=True),
    PreTokenizer(("tekken",), (_TEKKEN,), ignore_merges=True, adds_bos=True),
    PreTokenizer(("gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"), (_GPT4O,)),
    PreTokenizer(("seed-coder",), (_SEED,)),
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
    for rule in PRE_TOKENIZERS:
        if (rule.splits, rule.nfc, rule.ignore_merges) == (splits, nfc, ignore_merges):
            return rule
    raise UnsupportedError(
        f"GGUF has no name for this pre-tokenizer: splits {list(splits)}, "
        f"{'NFC' if nfc else 'no normalizer'}, ignore_merges {ignore_merges}; choose another container"
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
    splits: list[str] = []
    for step in steps:
        splits += _split(step)
    if not _ends_in_bytes(steps):
        raise UnsupportedError(f"GGUF has no name for the pre-tokenizer {_short(pre_tokenizer)}: it is not byte-level")
    return tuple(splits)


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
