"""Small tokenizers of the kinds that models have, trained here, and texts to compare them on."""

import json
import random
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from halfpint.checkpoints import pretokenizers
from halfpint.checkpoints.sentencepiece import merges_of_scores

SHARED_TEXT = Path(__file__).parents[2] / "shared" / "text"

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace("{1,3}", "")

CORPUS = (
    "You can weigh flour on a laboratory scale, but a kitchen scale is plenty. It's 12 glasses, 24 spoons, 360 drops;\n"
    "how precise must each of them be? WE'LL see: def pour(milk, pots=1234): return milk // pots\n\n"
    "Größe und Maß, l'été à Genève, ¿cuánto cuesta?, 東京の水は1リットル、北京的水,"
    " вода 50 рублей, كأس ماء, शीशा, 👩‍🍳🥛.\n"
) * 3

_MARKS = (
    "'s",
    "'LL",
    "\r\n",
    "\n\n\n",
    "  ",
    "\t",
    " \u00a0",
    "e\u0301",
    "\u0928\u093f",
    "½²٣",
    "<|end|>",
    "<s>",
    "１２３",
    "▁",
)


def lines(count: int = 300) -> list[str]:
    """Ugly texts from all over Unicode, always the same."""
    generator = random.Random(7)
    ranges = [
        (32, 127),
        (0x20, 0x600),
        (0x900, 0x980),
        (0x2000, 0x2070),
        (0x3000, 0x9FFF),
        (0xAC00, 0xD7A3),
        (0x1F300, 0x1F700),
    ]
    words = CORPUS.split(" ")
    made = ["", " ", "  ", "\n", "a", " a", "a ", "\u0301", CORPUS, CORPUS.upper(), "x" * 500, " " * 60 + "x", "9" * 40]
    for _ in range(count):
        pieces = []
        for _ in range(generator.randrange(1, 25)):
            low, high = generator.choice(ranges)
            pieces.append(
                generator.choice(
                    [generator.choice(words), chr(generator.randrange(low, high)), generator.choice(_MARKS), " "]
                )
            )
        made.append("".join(pieces))
    return made


def shared_lines(count: int = 1500) -> list[str]:
    """Real texts, where they are; else none."""
    found: list[str] = []
    for path in sorted(SHARED_TEXT.rglob("*.*")):
        if path.suffix in (".utf8", ".txt", ".raw"):
            with path.open(encoding="utf-8") as file:
                found += [line for line, _ in zip(file, range(100), strict=False)]
    return found[:count]


def byte_level(steps: Sequence[Any], *, nfc: bool = False, ignore_merges: bool = False, bos: bool = False) -> Tokenizer:
    """A byte-level BPE with some special tokens."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(list(steps)) if len(steps) > 1 else steps[0]
    if nfc:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<|begin|>", "<|end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=700, initial_alphabet=alphabet, special_tokens=special, show_progress=False
    )
    tokenizer.train_from_iterator([CORPUS], trainer)
    tokenizer.add_tokens(["<tool>"])
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<|begin|> $A", special_tokens=[("<|begin|>", 0)]
        )
    return tokenizer


def split(pattern: str) -> Any:
    return pre_tokenizers.Split(Regex(pattern), "isolated")


TO_BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)


def of_rule(name: str) -> Tokenizer:
    """A byte-level BPE that cuts text by a rule of our table."""
    rule = pretokenizers.by_name(name)
    return byte_level([*map(split, rule.splits), TO_BYTES], nfc=rule.nfc, ignore_merges=rule.ignore_merges)


@cache
def _pieces() -> tuple[str, ...]:
    """Tokens as SentencePiece would have them, most frequent unions first."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    trained.train_from_iterator([CORPUS], trainers.BpeTrainer(vocab_size=500, show_progress=False))
    vocabulary = trained.get_vocab()
    return tuple(sorted((token for token in vocabulary if len(token) > 1), key=vocabulary.__getitem__))


def sentencepiece(normalizer: Any, pre_tokenizer: Any = None, *, byte_fallback: bool = True) -> Tokenizer:
    """What transformers makes of a SentencePiece model: a BPE with every way to cut every token, by score."""
    unions = [*_pieces(), "▁▁", "▁▁▁▁"] if pre_tokenizer is None else list(_pieces())
    letters = sorted(set("".join(unions)) | set("abcdefghijklmnopqrstuvwxyz"))
    tokens = [
        "<unk>",
        "<s>",
        "</s>",
        *([f"<0x{n:02X}>" for n in range(256)] if byte_fallback else []),
        *unions,
        *letters,
    ]
    ids = {token: token_id for token_id, token in enumerate(tokens)}
    scores = -np.arange(len(tokens), dtype=np.float32)
    merges = merges_of_scores({token: ids[token] for token in (*unions, *letters)}, scores)
    tokenizer = Tokenizer(
        models.BPE(vocab=ids, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=byte_fallback)
    )
    tokenizer.normalizer = normalizer
    if pre_tokenizer is not None:
        tokenizer.pre_tokenizer = pre_tokenizer
    unescape = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    prefixed = pre_tokenizer is not None or "Prepend" in str(normalizer)
    tokenizer.decoder = decoders.Sequence([*unescape, decoders.Strip(" ", 1, 0)] if prefixed else unescape)
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", ids["<s>"])])
    return tokenizer


_ESCAPE = normalizers.Replace(" ", "▁")

KINDS: Mapping[str, Callable[[], Tokenizer]] = {
    "gpt-2": lambda: byte_level([pre_tokenizers.ByteLevel(add_prefix_space=False)]),
    "llama-3": lambda: byte_level([split(LLAMA3), TO_BYTES], ignore_merges=True, bos=True),
    "qwen-2": lambda: byte_level([split(QWEN2), TO_BYTES], nfc=True),
    "smollm": lambda: byte_level(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    ),
    "tekken": lambda: of_rule("tekken"),
    "gpt-4o": lambda: of_rule("gpt-4o"),
    "deepseek-v3": lambda: of_rule("deepseek-v3"),
    "qwen-3.5": lambda: of_rule("qwen35"),
    "llama-2": lambda: sentencepiece(normalizers.Sequence([normalizers.Prepend("▁"), _ESCAPE])),
    "gemma": lambda: sentencepiece(_ESCAPE),
    "mistral": lambda: sentencepiece(None, pre_tokenizers.Metaspace(prepend_scheme="always", split=False)),
    "mistral-0.3": lambda: sentencepiece(None, pre_tokenizers.Metaspace(prepend_scheme="first", split=False)),
    "words": lambda: sentencepiece(None, pre_tokenizers.Metaspace(prepend_scheme="always", split=True)),
    "characters": lambda: sentencepiece(normalizers.Sequence([normalizers.Prepend("▁"), _ESCAPE]), byte_fallback=False),
}
"""Kinds of tokenizers by the model that made them known."""


def save(tokenizer: Tokenizer, folder: Path, **settings: Any) -> Path:
    """Make a Hugging Face folder of a tokenizer."""
    folder.mkdir(exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    names = tokenizer.get_vocab()
    bos, eos = ("<s>", "</s>") if "</s>" in names else ("<|begin|>", "<|end|>")
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": bos, "eos_token": eos, **settings}))
    return folder


def with_a_word_beyond_merges(steps: Sequence[Any]) -> Tokenizer:
    """A byte-level BPE that looks whole words up first, and has one that its merges never make."""
    tokenizer = byte_level(steps, ignore_merges=True)
    spelled = json.loads(tokenizer.to_str())
    vocabulary = spelled["model"]["vocab"]
    vocabulary["xqzj"] = max(vocabulary.values()) + 2  # one more is the added token
    return Tokenizer.from_str(json.dumps(spelled))
