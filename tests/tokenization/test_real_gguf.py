"""Published tokenizers in GGUF and back, and published GGUF vocabularies, against the ids that others give.

The files are other people's and not part of the project: a test whose file is not in the cache is skipped, and says so.
"""

import json
from pathlib import Path

import pytest

from halfpint.checkpoints import open_checkpoint
from halfpint.checkpoints.gguf_metadata import Metadata
from halfpint.checkpoints.gguf_tokenizer import tokenizer_metadata
from halfpint.checkpoints.tokenizer_files import read_tokenizer_files
from halfpint.tokenization import Tokenizer, load_tokenizer
from halfpint.tokenization.gguf_vocabulary import tokenizer_from_metadata

CACHE = Path.home() / ".cache" / "halfpint-tokenizers"
FOLDERS = ("llama3_1", "llama3", "qwen3", "deepseek_v3", "gemma3", "gptoss", "gpt4o", "llama2")
VOCABULARIES = (
    "command-r",
    "deepseek-coder",
    "deepseek-llm",
    "falcon",
    "gpt-2",
    "llama-bpe",
    "llama-spm",
    "mpt",
    "phi-3",
    "qwen2",
    "qwen35",
    "refact",
    "starcoder",
)
LINES = (
    "Hello, world!",
    "  two spaces, \t tabs\t\tand\n\n\nbreaks \n \r\n end  ",
    "\n" * 31 + "x" + " " * 16 + "y" + "\t" * 5,
    "don't DON'T I'LL we've 1 22 333 4444 3.14159 1,000,000",
    "def f(x):\n    return [x ** 2 for _ in range(10)]  # ok\n",
    "Grüße, café, Ελληνικά ώΐΊ, русский, العربية, हिन्दी, 日本語のテキスト, 한국어, ไทย, 🎉👩‍👩‍👧",
    "a\u0301e\u0301 ﬁ ½ ① Ⅷ \u200b\u00a0\u3000",
    "https://example.com/a?b=c&d=%20#e <b>bold</b> $x_1 = {y}$ `code`",
)
# Words that a text may spell, with spaces where tokens differ in what they do with them.
AROUND = ("{}", " {} ", "a {} b", "a{}b", "{}\n\n x", "  {}{}  ")


def folder(name: str) -> Path:
    path = CACHE / name
    if not (path / "tokenizer.json").exists():
        pytest.skip(f"{path} is not there")
    return path


def through_gguf(path: Path, config: dict | None = None, name: str = "model") -> Tokenizer:
    return tokenizer_from_metadata(Metadata(tokenizer_metadata(path, config or {}), name))


def lines_of(path: Path) -> list[str]:
    added = json.loads((path / "tokenizer.json").read_text(encoding="utf-8")).get("added_tokens") or []
    words = [entry["content"] for entry in (*added[:12], *added[-12:])]
    return [*LINES, *(around.replace("{}", word) for word in words for around in AROUND)]


@pytest.mark.parametrize("name", FOLDERS)
def test_a_published_tokenizer_gives_the_same_ids_through_gguf(name: str) -> None:
    path = folder(name)
    files, found = read_tokenizer_files(path, {}), through_gguf(path)
    for line in lines_of(path):
        expected = files.tokenizer.encode(line, add_special_tokens=False).ids
        if name == "gemma3" and "▁" in line:
            continue  # a literal mark, which GGUF cannot tell from a space
        assert found.encode(line, add_special=False) == expected, line
        assert found.decode(expected) == files.tokenizer.decode(expected)
    assert found.eos_ids == files.special.eos_ids


@pytest.mark.parametrize("name", VOCABULARIES)
def test_a_published_vocabulary_gives_the_ids_that_its_authors_list(name: str) -> None:
    path = CACHE / "llama.cpp" / f"ggml-vocab-{name}.gguf"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    tokenizer = load_tokenizer(open_checkpoint(path))
    texts = Path(f"{path}.inp").read_text(encoding="utf-8").split("\n__ggml_vocab_test__\n")
    ids = Path(f"{path}.out").read_text(encoding="utf-8").split("\n")
    assert len(texts) <= len(ids)
    for text, line in zip(texts, ids, strict=False):
        assert tokenizer.encode(text, add_special=False) == [int(token) for token in line.split()], text
