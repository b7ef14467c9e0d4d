"""What added tokens do with the text around them, and all stop tokens, survive GGUF."""

import json
from pathlib import Path

import pytest

import made_tokenizers
from halfpint.checkpoints.gguf_metadata import Metadata, text
from halfpint.checkpoints.gguf_tokenizer import ADDED_TOKENS_KEY, tokenizer_metadata
from halfpint.checkpoints.tokenizer_files import read_tokenizer_files
from halfpint.tokenization.gguf_vocabulary import tokenizer_from_metadata

CACHE = Path.home() / ".cache" / "halfpint-tokenizers"
MADE = ("gpt-2", "llama-3", "llama-2", "gemma", "mistral")
SOURCES = (*MADE, "llama2", "gpt4o", "qwen3")
AROUND = ("{}", " {} ", "a {} b", "a{}b", "{}\n\n x", "  {}{}  ", "\t{}\t")
FLAGS = {
    "rstrip": {
        "<|user|>": {"rstrip": True},
        "<|close|>": {"rstrip": True},
        "<|system|>": {"rstrip": True, "special": False},
    },
    "lstrip": {"<|user|>": {"lstrip": True}, "<|mask|>": {"lstrip": True, "special": False}},
    "both": {"<|user|>": {"lstrip": True, "rstrip": True}, "<|close|>": {"lstrip": True, "rstrip": True}},
    "word": {"<|word|>": {"single_word": True}, "zebra": {"single_word": True, "special": False}},
}


def spelled(source: str) -> dict:
    if source in MADE:
        return json.loads(made_tokenizers.KINDS[source]().to_str())
    path = CACHE / source / "tokenizer.json"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    return json.loads(path.read_text(encoding="utf-8"))


def with_added(source: str, path: Path, words: dict[str, dict], ends: tuple[str, ...] = ()) -> Path:
    """A tokenizer with more added tokens, of which some end a text."""
    content = spelled(source)
    entries = content["added_tokens"]
    first = max(*content["model"]["vocab"].values(), *(entry["id"] for entry in entries)) + 1
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    entries += [{"id": first + n, "content": word, **plain, **words[word]} for n, word in enumerate(words)]
    path.mkdir()
    (path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    ids = {entry["content"]: entry["id"] for entry in entries}
    (path / "generation_config.json").write_text(json.dumps({"eos_token_id": [ids[word] for word in ends]}))
    return path


def metadata_of(path: Path, **more: str) -> Metadata:
    keys = tokenizer_metadata(path, {}) | {key.replace("_", "."): text(value) for key, value in more.items()}
    return Metadata(keys, "file.gguf")


@pytest.mark.parametrize("kind", FLAGS)
@pytest.mark.parametrize("source", SOURCES)
def test_added_tokens_do_the_same_with_the_space_around_them(source: str, kind: str, tmp_path: Path) -> None:
    path = with_added(source, tmp_path / "changed", FLAGS[kind])
    expected, found = read_tokenizer_files(path, {}).tokenizer, tokenizer_from_metadata(metadata_of(path))
    texts = [around.replace("{}", word) for word in FLAGS[kind] for around in AROUND]
    texts += ["<|user|>\nHi <|close|>\n<|system|> \n x", "zebra zebras azebra <|word|>s"]
    for line in texts:
        assert found.encode(line, add_special=False) == expected.encode(line, add_special_tokens=False).ids, line


@pytest.mark.parametrize("source", [*MADE, "llama2", "qwen3"])
def test_all_stop_tokens_survive(source: str, tmp_path: Path) -> None:
    words = {f"<|stop {n}|>": {} for n in range(6)}
    path = with_added(source, tmp_path / "changed", {**words, "<|eom_id|>": {}}, tuple(words))
    expected, found = read_tokenizer_files(path, {}).special, tokenizer_from_metadata(metadata_of(path))
    assert len(expected.eos_ids) == 6
    assert found.eos_ids == expected.eos_ids


def test_files_of_others_follow_the_rule_of_llama_cpp_by_name(tmp_path: Path) -> None:
    """Without our key: in a model whose name says Phi-3, spaces after special tokens are taken away."""
    path = with_added("llama-2", tmp_path / "changed", {"<|user|>": {}, "<|endoftext|>": {}})
    assert ADDED_TOKENS_KEY not in tokenizer_metadata(path, {})
    plain = tokenizer_from_metadata(metadata_of(path, general_name="Model 7B"))
    named = tokenizer_from_metadata(metadata_of(path, general_name="My Phi-3 mini"))
    ids = [tokenizer.encode("<|user|>\n Hi", add_special=False) for tokenizer in (plain, named)]
    assert ids[0] != ids[1] == named.encode("<|user|>Hi", add_special=False)
    kept = [tokenizer.encode("<|endoftext|> Hi", add_special=False) for tokenizer in (plain, named)]
    assert kept[0] == kept[1]
