"""llama.cpp cuts texts into the same tokens as we do, from the metadata that we write."""

import unicodedata
from pathlib import Path

import pytest

import made_tokenizers
from engines.llama_cpp import LlamaCpp
from halfpint.checkpoints.gguf import GGUF
from halfpint.checkpoints.gguf_layout import GgufLayout
from halfpint.checkpoints.gguf_metadata import text, uint32
from halfpint.checkpoints.gguf_tokenizer import tokenizer_metadata
from halfpint.tokenization import load_tokenizer

pytestmark = pytest.mark.engine

# llama.cpp leaves composing characters to whoever gives it text.
COMPOSED = {"qwen-2", "qwen-3.5"}
# It has no word for transformers' Metaspace: see `SpacePrefix`.
METASPACE = {"mistral", "mistral-0.3", "words"}
# Its patterns approximate the cases of letters beyond ASCII, and leave combining marks out.
ASCII_LETTERS = {"tekken", "gpt-4o"}
# It stops the process at a character that is no token when there are no byte tokens.
CLOSED = {"characters"}


def comparable(kind: str) -> list[str]:
    lines = [line for line in made_tokenizers.lines(120) + made_tokenizers.shared_lines(150) if line]
    if kind in COMPOSED:
        lines = [unicodedata.normalize("NFC", line) for line in lines]
    if kind in METASPACE:
        lines = [line for line in lines if line[0] not in " ▁" and "<" not in line]
    if kind in ASCII_LETTERS:
        lines = ["".join(c for c in line if c.isascii() or unicodedata.category(c)[0] not in "LM") for line in lines]
    if kind in CLOSED:
        lines = ["You can weigh flour on a laboratory scale", "milk", "a  b", "pots and pots and pots"]
    return lines


@pytest.mark.parametrize("kind", made_tokenizers.KINDS)
def test_ids_are_those_of_llama_cpp(kind: str, llama_cpp: LlamaCpp, tmp_path: Path) -> None:
    folder = made_tokenizers.save(made_tokenizers.KINDS[kind](), tmp_path / "model")
    sizes = ("context_length", "embedding_length", "block_count", "feed_forward_length", "attention.head_count")
    metadata = {"general.architecture": text("llama")} | {f"llama.{name}": uint32(8) for name in sizes}
    path = tmp_path / "vocabulary.gguf"
    path.write_bytes(GgufLayout(metadata | tokenizer_metadata(folder, {}), ()).header)
    checkpoint = GGUF.open(path)
    tokenizer = load_tokenizer(checkpoint)
    checkpoint.close()
    assert llama_cpp.n_vocab(path) == tokenizer.vocab_size
    for line in comparable(kind):
        assert llama_cpp.tokenize(path, line, parse_special=True).tolist() == tokenizer.encode(line), line
