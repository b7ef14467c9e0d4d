"""Decoding keeps what is whole of a text, gives one U+FFFD per broken part, and streams to the same text."""

import random
from pathlib import Path

import pytest

import made_tokenizers
from halfpint.checkpoints.gguf_metadata import Metadata
from halfpint.checkpoints.gguf_tokenizer import tokenizer_metadata
from halfpint.checkpoints.tokenizer_files import read_tokenizer_files
from halfpint.tokenization import StreamDecoder, Tokenizer
from halfpint.tokenization.gguf_vocabulary import tokenizer_from_metadata

BYTE_FALLBACK = ["llama-2", "gemma", "mistral", "mistral-0.3", "words"]
BYTE_LEVEL = ["gpt-2", "llama-3", "qwen-2", "smollm", "deepseek-v3"]


def from_folder(folder: Path) -> Tokenizer:
    files = read_tokenizer_files(folder, {})
    assert files is not None
    return Tokenizer(files.tokenizer, files.special, (), (), None)


def tokenizers_of(kind: str, folder: Path) -> list[Tokenizer]:
    """One kind from its folder and from GGUF metadata."""
    made_tokenizers.save(made_tokenizers.KINDS[kind](), folder)
    return [from_folder(folder), tokenizer_from_metadata(Metadata(tokenizer_metadata(folder, {}), "model.gguf"))]


def stream(tokenizer: Tokenizer, ids: list[int], context: int = 0) -> str:
    decoder = StreamDecoder(tokenizer, ids[:context])
    return "".join(map(decoder.step, ids[context:])) + decoder.finish()


def damaged(tokenizer: Tokenizer, seed: int) -> list[int]:
    """Tokens of a hard line of which single ones are lost, repeated, or stray bytes."""
    generator = random.Random(seed)
    strays = [tokenizer.model.token_to_id(f"<0x{byte:02X}>") for byte in (0x00, 0x80, 0xC3, 0xE2, 0xF0, 0xFF, 0xED)]
    ids = tokenizer.encode(generator.choice(made_tokenizers.lines(60)) + "東京👩‍🍳 ü", add_special=False)
    for _ in range(generator.randrange(1, 6)):
        place = generator.randrange(len(ids))
        change = generator.choice([[], [ids[place]] * 2, [generator.choice(strays), ids[place]]])
        ids[place : place + 1] = [token for token in change if token is not None]
    return ids


def by_hand(tokenizer: Tokenizer, ids: list[int]) -> str:
    """Put the bytes of all tokens together and let Python decode them."""
    data = b""
    for token in map(tokenizer.model.id_to_token, ids):
        assert token is not None
        if token in ("<unk>", "<s>", "</s>"):
            continue
        single = token.startswith("<0x")
        data += bytes([int(token[3:5], 16)]) if single else token.replace("▁", " ").encode()
    return data.decode("utf-8", errors="replace")


@pytest.mark.parametrize("kind", BYTE_FALLBACK)
def test_only_the_broken_part_of_a_text_is_lost(kind: str, tmp_path: Path) -> None:
    broken = 0
    for tokenizer in tokenizers_of(kind, tmp_path / "model"):
        for seed in range(100):
            ids = damaged(tokenizer, seed)
            expected = by_hand(tokenizer, ids)
            broken += "\ufffd" in expected
            assert tokenizer.decode(ids) in (expected, expected.removeprefix(" "))
    assert broken > 60


@pytest.mark.parametrize(
    ("tokens", "text"),
    [
        (["<0xE6>", "<0x9D>", "<0xB1>", "<0xE4>", "<0xBA>", "a"], "東\ufffda"),
        (["<0xF0>", "<0x9F>", "<0x98>", "<0xE6>", "<0x9D>", "<0xB1>"], "\ufffd東"),
        (["<0x80>", "<0xC3>", "<0xA9>", "<0xFF>"], "\ufffdé\ufffd"),
        (["<0xED>", "<0xA0>", "<0x80>"], "\ufffd\ufffd\ufffd"),
        (["<0xE2>", "<0x96>", "<0x81>", "<0xFF>"], "▁\ufffd"),
        (["<0xE6>", "<0x9D>", "<s>", "<0xB1>"], "東"),
    ],
)
def test_broken_parts_are_replaced_one_by_one(tokens: list[str], text: str, tmp_path: Path) -> None:
    for tokenizer in tokenizers_of("gemma", tmp_path / "model"):
        ids = [tokenizer.model.token_to_id(token) for token in tokens]
        assert tokenizer.decode(ids) == text
        assert stream(tokenizer, ids) == text


@pytest.mark.parametrize("kind", [*BYTE_FALLBACK, *BYTE_LEVEL, "characters"])
def test_a_stream_is_the_whole_text(kind: str, tmp_path: Path) -> None:
    for tokenizer in tokenizers_of(kind, tmp_path / "model"):
        generator = random.Random(kind)
        for seed in range(25):
            ids = damaged(tokenizer, seed)
            assert stream(tokenizer, ids) == tokenizer.decode(ids)
            anything = [generator.randrange(tokenizer.vocab_size) for _ in range(generator.randrange(150))]
            assert stream(tokenizer, anything) == tokenizer.decode(anything)
            bytes_mostly = [generator.randrange(min(tokenizer.vocab_size, 270)) for _ in range(100)]
            assert stream(tokenizer, bytes_mostly) == tokenizer.decode(bytes_mostly)


@pytest.mark.parametrize("kind", ["llama-2", "gemma", "gpt-2"])
def test_a_stream_completes_the_character_its_context_began(kind: str, tmp_path: Path) -> None:
    for tokenizer in tokenizers_of(kind, tmp_path / "model"):
        ids = tokenizer.encode("The 👩‍🍳 said ü and 東京", add_special=False)
        for cut in range(len(ids)):
            before = tokenizer.decode(ids[:cut])
            assert before.removesuffix("\ufffd") + stream(tokenizer, ids, cut) == tokenizer.decode(ids)


@pytest.mark.parametrize("kind", ["llama-2", "gemma", "gpt-2"])
def test_at_most_one_character_waits(kind: str, tmp_path: Path) -> None:
    for tokenizer in tokenizers_of(kind, tmp_path / "model"):
        for seed in range(20):
            ids = damaged(tokenizer, seed)
            decoder = StreamDecoder(tokenizer)
            given = ""
            for count, token in enumerate(ids, start=1):
                given += decoder.step(token)
                whole = tokenizer.decode(ids[:count])
                assert given in (whole, whole.removesuffix("\ufffd"))


def test_a_stream_keeps_few_tokens(tmp_path: Path) -> None:
    for tokenizer in tokenizers_of("gemma", tmp_path / "model"):
        broken = tokenizer.model.token_to_id("<0xF0>")
        for token in (broken, tokenizer.model.token_to_id("a")):
            decoder = StreamDecoder(tokenizer)
            text = "".join(decoder.step(token) for _ in range(1000)) + decoder.finish()
            assert text == tokenizer.decode([token] * 1000)
            assert len(decoder._ids) <= 32
