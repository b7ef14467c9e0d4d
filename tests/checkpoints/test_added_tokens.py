"""Tokens of the files beside tokenizer.json, and what tokenizer.json saved for training, are as in transformers."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer as HfTokenizer

import made_tokenizers
from halfpint.checkpoints.gguf_metadata import Metadata
from halfpint.checkpoints.gguf_tokenizer import tokenizer_metadata
from halfpint.checkpoints.tokenizer_files import TokenizerFiles, read_tokenizer_files
from halfpint.errors import CheckpointError
from halfpint.tokenization import Tokenizer
from halfpint.tokenization.gguf_vocabulary import tokenizer_from_metadata

CHAT = "<|im_start|>user\nHello there<|im_end|>\n <mark> <mark>word<mark>\n<|im_start|> assistant"


def read(folder: Path, config: Mapping[str, Any] | None = None) -> TokenizerFiles:
    files = read_tokenizer_files(folder, config or {})
    assert files is not None
    return files


def encode(files: TokenizerFiles, text: str) -> list[int]:
    return Tokenizer(files.tokenizer, files.special, (), (), None).encode(text)


def folder_of(kind: str, path: Path, **files: Any) -> Path:
    """A folder whose side files hold these objects; `first` stands for the first free id."""
    folder = made_tokenizers.save(made_tokenizers.KINDS[kind](), path / "model")
    for name, value in files.items():
        (folder / f"{name}.json").write_text(json.dumps(value))
    return folder


def size_of(kind: str) -> int:
    return len(made_tokenizers.KINDS[kind]().get_vocab())


def entry(content: str, **flags: bool) -> dict[str, Any]:
    base = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False, "special": True}
    return {"content": content, **base, **flags}


SIDE_FILES: Mapping[str, Callable[[int], dict[str, Any]]] = {
    "added_tokens_decoder": lambda first: {
        "tokenizer_config": {
            "added_tokens_decoder": {str(first): entry("<|im_start|>"), str(first + 1): entry("<|im_end|>")}
        }
    },
    "flags of added_tokens_decoder": lambda first: {
        "tokenizer_config": {
            "added_tokens_decoder": {
                str(first): entry("<|im_start|>", rstrip=True),
                str(first + 1): entry("<mark>", special=False, normalized=True, lstrip=True, single_word=True),
            }
        }
    },
    "a role named beside added_tokens_decoder": lambda first: {
        "tokenizer_config": {
            "eos_token": "<|im_end|>",
            "added_tokens_decoder": {str(first): entry("<|im_end|>", special=False)},
        }
    },
    "added_tokens_decoder out of order": lambda first: {
        "tokenizer_config": {
            "added_tokens_decoder": {str(first + 1): entry("<|im_start|>"), str(first): entry("<|im_end|>")}
        }
    },
    "additional_special_tokens": lambda _: {
        "tokenizer_config": {"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]}
    },
    "extra_special_tokens, a list": lambda _: {"tokenizer_config": {"extra_special_tokens": ["<|im_end|>"]}},
    "extra_special_tokens, an object": lambda _: {
        "tokenizer_config": {"extra_special_tokens": {"mark_token": "<mark>"}}
    },
    "a token of the model's own": lambda _: {"tokenizer_config": {"image_token": "<mark>"}},
    "a role": lambda _: {"tokenizer_config": {"eos_token": "<|im_end|>"}},
    "a role, spelled with its flags": lambda _: {
        "tokenizer_config": {"eos_token": {"__type": "AddedToken", **entry("<|im_end|>", lstrip=True)}}
    },
    "special_tokens_map": lambda _: {"special_tokens_map": {"eos_token": entry("<|im_end|>", rstrip=True)}},
    "special_tokens_map, a list": lambda _: {
        "special_tokens_map": {"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]}
    },
    "added_tokens": lambda first: {"added_tokens": {"<|im_end|>": first + 1, "<|im_start|>": first}},
    "added_tokens, one of them special": lambda first: {
        "added_tokens": {"<|im_end|>": first + 1, "<mark>": first},
        "special_tokens_map": {"eos_token": "<|im_end|>"},
    },
}


@pytest.mark.parametrize("kind", ["gpt-2", "llama-2", "gemma"])
@pytest.mark.parametrize("name", SIDE_FILES)
def test_tokens_of_side_files_are_those_of_transformers(name: str, kind: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    first = size_of(kind)
    folder = folder_of(kind, tmp_path, **SIDE_FILES[name](first))
    files = read(folder, {"vocab_size": first + 8})
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    for line in (CHAT, *made_tokenizers.lines(60)):
        ids = encode(files, line)
        assert ids == theirs(line)["input_ids"], line
        assert files.tokenizer.decode(ids) == theirs.decode(ids, skip_special_tokens=True)
    assert any(token >= first for token in encode(files, CHAT))


@pytest.mark.parametrize("name", SIDE_FILES)
def test_tokens_of_side_files_reach_gguf(name: str, tmp_path: Path) -> None:
    first = size_of("gpt-2")
    folder = folder_of("gpt-2", tmp_path, **SIDE_FILES[name](first))
    tokens = list(tokenizer_metadata(folder, {"vocab_size": first + 8})["tokenizer.ggml.tokens"].data)
    known = read(folder).tokenizer.get_added_tokens_decoder()
    for token_id in range(first, first + 8):
        assert tokens[token_id] == (known[token_id].content if token_id in known else f"[PAD{token_id}]")


@pytest.mark.parametrize(
    "side",
    [
        {"tokenizer_config": {"added_tokens_decoder": {"9000": entry("<mark>")}}},
        {"tokenizer_config": {"added_tokens_decoder": {"5": entry("<mark>")}}},
        {"added_tokens": {"<mark>": 9000}},
    ],
)
def test_an_id_that_a_token_cannot_have_is_refused_with_its_name(side: dict[str, Any], tmp_path: Path) -> None:
    folder = folder_of("gpt-2", tmp_path, **side)
    with pytest.raises(CheckpointError, match="<mark>"):
        read(folder)


@pytest.mark.parametrize(
    "side",
    [
        {"tokenizer_config": {"added_tokens_decoder": []}},
        {"tokenizer_config": {"added_tokens_decoder": {"x": entry("<mark>")}}},
        {"tokenizer_config": {"added_tokens_decoder": {"700": {"content": 3}}}},
        {"tokenizer_config": {"added_tokens_decoder": {"700": entry("<mark>", lstrip=3)}}},  # type: ignore[arg-type]
        {"tokenizer_config": {"extra_special_tokens": "<mark>"}},
        {"tokenizer_config": {"additional_special_tokens": [3]}},
        {"added_tokens": {"<mark>": -1}},
        {"added_tokens": {"<mark>": "7"}},
    ],
)
def test_malformed_declarations_are_refused(side: dict[str, Any], tmp_path: Path) -> None:
    folder = folder_of("gpt-2", tmp_path, **side)
    with pytest.raises(CheckpointError, match=r"tokenizer_config\.json|added_tokens\.json"):
        read(folder)


def test_an_ordinary_token_that_pads_batches_stays_ordinary(tmp_path: Path) -> None:
    folder = folder_of("gpt-2", tmp_path, tokenizer_config={"pad_token": "!"})
    files = read(folder)
    assert files.tokenizer.decode(encode(files, "Hello!")) == "Hello!"
    assert files.special.pad_id == files.tokenizer.token_to_id("!")


SAVED = {
    "truncation": {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0},
    "padding": {
        "strategy": {"Fixed": 64},
        "direction": "Left",
        "pad_to_multiple_of": None,
        "pad_id": 1,
        "pad_type_id": 0,
        "pad_token": "<|end|>",
    },
}


@pytest.mark.parametrize("kind", ["gpt-2", "llama-3", "llama-2", "mistral"])
@pytest.mark.parametrize("saved", ["truncation", "padding", "dropout", "all"])
def test_what_was_saved_for_training_is_off(saved: str, kind: str, tmp_path: Path) -> None:
    folder = folder_of(kind, tmp_path)
    before = read(folder)
    spelled = json.loads((folder / "tokenizer.json").read_text())
    for key, value in SAVED.items():
        if saved in (key, "all"):
            spelled[key] = value
    if saved in ("dropout", "all"):
        spelled["model"]["dropout"] = 0.9
    data = json.dumps(spelled)
    line = "You can weigh flour on a laboratory scale, but a kitchen scale is plenty."
    assert HfTokenizer.from_str(data).encode(line).ids != encode(before, line)
    (folder / "tokenizer.json").write_text(data)
    for text in (line, "", "a", *made_tokenizers.lines(30)):
        assert encode(read(folder), text) == encode(before, text)
    made = tokenizer_from_metadata(Metadata(tokenizer_metadata(folder, {}), "model.gguf"))
    assert made.encode(line) == encode(before, line)


NOTHING: Mapping[str, dict[str, Any]] = {
    "negative ids": {"generation_config": {"pad_token_id": -1, "bos_token_id": -1, "eos_token_id": [-1, 1]}},
    "a pad beyond the vocabulary": {"generation_config": {"pad_token_id": 32_000}},
    "a beginning beyond the vocabulary": {"generation_config": {"bos_token_id": 32_000}},
    "an end beyond the vocabulary": {"generation_config": {"eos_token_id": [1, 4000]}},
    "a pad that is not there": {"tokenizer_config": {"eos_token": "<|end|>", "pad_token": "[PAD]"}},
    "an end that is not there": {
        "tokenizer_config": {"eos_token": "<nothing>"},
        "generation_config": {"eos_token_id": 1},
    },
    "a mapped pad that is not there": {"special_tokens_map": {"pad_token": entry("[PAD]")}},
}


@pytest.mark.parametrize("name", NOTHING)
def test_ids_that_nothing_uses_stop_nothing(name: str, tmp_path: Path) -> None:
    folder = folder_of("gpt-2", tmp_path, **NOTHING[name])
    files = read(folder, {"vocab_size": size_of("gpt-2"), "eos_token_id": -1, "pad_token_id": -1})
    assert files.special.eos_ids == (1,)
    assert files.special.pad_id is None
    assert files.tokenizer.token_to_id("[PAD]") is None
    assert bool(files.notes) == (name != "negative ids")
    assert all("is ignored" in note and ("_token" in note) for note in files.notes)
    assert tokenizer_metadata(folder, {"vocab_size": size_of("gpt-2")})["tokenizer.ggml.eos_token_id"].data == 1


def test_a_role_without_a_token_takes_a_row_where_there_is_one(tmp_path: Path) -> None:
    folder = folder_of("gpt-2", tmp_path, tokenizer_config={"eos_token": "<nothing>"})
    assert read(folder, {"vocab_size": size_of("gpt-2") + 1}).special.eos_ids == (size_of("gpt-2"),)


@pytest.mark.parametrize("value", [True, "2", 2.5, [[1]], {"id": 1}])
def test_what_is_no_id_is_refused_with_its_file(value: Any, tmp_path: Path) -> None:
    folder = folder_of("gpt-2", tmp_path, generation_config={"eos_token_id": value})
    with pytest.raises(CheckpointError, match=r"generation_config\.json: eos_token_id"):
        read(folder)
    with pytest.raises(CheckpointError, match=r"config\.json: pad_token_id"):
        read(folder_of("gpt-2", tmp_path), {"pad_token_id": value})


def test_more_ids_than_rows_are_refused_or_noted(tmp_path: Path) -> None:
    folder = folder_of("gpt-2", tmp_path)
    size = size_of("gpt-2")
    assert read(folder, {"vocab_size": size}).notes == ()
    (note,) = read(folder, {"vocab_size": size - 1}).notes  # <tool>, an added token
    assert "'<tool>'" in note
    with pytest.raises(CheckpointError, match=f"ids up to {size - 2}, but the model has {size - 2} rows"):
        read(folder, {"vocab_size": size - 2})
