"""A prompt cache changes no token; what does not belong to the model, or is damaged, is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

import tiny_models
from halfpint.checkpoints import open_checkpoint
from halfpint.engine import Cache, Decoder, Generation, GenerationOptions
from halfpint.engine.prompt_cache import PromptCache
from halfpint.errors import CheckpointError, UsageError
from halfpint.kernels.key_values import CACHE_KINDS

PROMPT = [(7 * i) % 300 for i in range(300)]


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    tiny_models.save_tiny("llama", folder, max_position_embeddings=1024)
    return Decoder.load(open_checkpoint(folder), activations="int8")


@pytest.fixture
def saved(decoder, tmp_path):
    """A cache file that holds the prompt, and its bytes."""
    file, cache = PromptCache(tmp_path / "prompt", "this model"), Cache(decoder.config)
    decoder.forward(np.array(PROMPT), cache)
    file.save(cache, PROMPT)
    return file, file.path.read_bytes()


def continued(decoder, prompt, cache) -> list[int]:
    return list(Generation(decoder, prompt[cache.length :], GenerationOptions(max_tokens=12), cache))


@pytest.mark.parametrize("kind", CACHE_KINDS)
def test_the_text_is_that_without_a_cache(kind, decoder, tmp_path):
    file, cache = PromptCache(tmp_path / "prompt", "this model"), Cache(decoder.config, kind=kind)
    decoder.forward(np.array(PROMPT), cache)
    file.save(cache, PROMPT)
    texts = {
        "the same": (PROMPT, len(PROMPT) - 1),
        "longer": ([*PROMPT, 1, 2, 3], len(PROMPT)),
        "shorter": (PROMPT[:100], 99),
        "other": ([*PROMPT[:270], 299, *PROMPT[270:]], 270),
        "nothing shared": ([299, *PROMPT], 0),
    }
    for text, held in texts.values():
        loaded = file.load(decoder.config, kind, text)
        assert loaded.length == held
        assert continued(decoder, text, loaded) == continued(decoder, text, Cache(decoder.config, kind=kind))


def test_without_a_file_the_cache_is_empty(decoder, tmp_path):
    assert PromptCache(tmp_path / "none", "m").load(decoder.config, "f16", PROMPT).length == 0


def test_a_text_longer_than_the_context_is_not_taken(saved, decoder):
    assert saved[0].load(decoder.config, "f16", PROMPT[:50], limit=60).length == 0


def test_another_model_or_kind_is_refused(saved, decoder):
    file, _ = saved
    with pytest.raises(UsageError, match="another model"):
        PromptCache(file.path, "that model").load(decoder.config, "f16", PROMPT)
    with pytest.raises(UsageError, match="kind 'f16', not 'q8'"):
        file.load(decoder.config, "q8", PROMPT)


def test_what_is_wrong_is_told_before_the_model_is_loaded(saved, tmp_path, monkeypatch):
    file, data = saved
    file.check()
    PromptCache(tmp_path / "new", "m").check()
    assert not (tmp_path / "new").exists()
    for path in (tmp_path, tmp_path / "no folder" / "file"):
        with pytest.raises(UsageError, match="folder that exists"):
            PromptCache(path, "m").check()
    with pytest.raises(UsageError, match="another model"):
        PromptCache(file.path, "that model").check()
    file.path.write_bytes(data[:40])
    with pytest.raises(CheckpointError, match="damaged"):
        file.check()
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(UsageError, match="cannot be written"):
        PromptCache(tmp_path / "new", "m").check()


def header_changed(data: bytes, **changes: object) -> bytes:
    length = int.from_bytes(data[8:16], "little")
    text = json.dumps(json.loads(data[16 : 16 + length]) | changes).encode()
    return data[:8] + len(text).to_bytes(8, "little") + text + data[16 + length :]


HOSTILE = {
    "empty": lambda data: data[:0],
    "no magic": lambda data: b"x" + data[1:],
    "only magic": lambda data: data[:8],
    "header beyond the file": lambda data: data[:8] + (1 << 40).to_bytes(8, "little") + data[16:],
    "no JSON": lambda data: data[:16] + b"x" * 100 + data[116:],
    "deep JSON": lambda data: data[:8] + (200000).to_bytes(8, "little") + b"[" * 200000,
    "a list": lambda data: data[:8] + (2).to_bytes(8, "little") + b"[]",
    "tokens of words": lambda data: header_changed(data, tokens=["a"]),
    "too few pages": lambda data: data[:-1],
    "too many pages": lambda data: data + b"x",
    "more tokens than pages": lambda data: header_changed(data, tokens=PROMPT * 3),
    "another checksum": lambda data: header_changed(data, checksum=1),
    "negative checksum": lambda data: header_changed(data, checksum=-1),
    "a flipped bit": lambda data: data[:-1000] + bytes([data[-1000] ^ 1]) + data[-999:],
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_damaged_file_is_refused(name, saved, decoder):
    file, data = saved
    file.path.write_bytes(HOSTILE[name](data))
    with pytest.raises(CheckpointError, match="prompt cache"):
        file.load(decoder.config, "f16", PROMPT)


def test_what_cannot_be_written_leaves_nothing_behind(saved, decoder, tmp_path):
    cache = Cache(decoder.config)
    decoder.forward(np.array(PROMPT), cache)
    with pytest.raises(UsageError, match="prompt-cache"):
        PromptCache(tmp_path / "no folder" / "file", "m").save(cache, PROMPT)
    with pytest.raises(UsageError, match="folder that exists"):
        PromptCache(tmp_path / "no folder" / "file", "m").load(decoder.config, "f16", PROMPT)
    (tmp_path / "folder").mkdir()
    with pytest.raises(UsageError, match="prompt-cache"):
        PromptCache(tmp_path / "folder", "m").save(cache, PROMPT)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "prompt"]
