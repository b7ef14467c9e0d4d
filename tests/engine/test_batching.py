"""Several texts at once get the tokens that each would get alone."""

from __future__ import annotations

import numpy as np
import pytest

import tiny_models
from halfpint.checkpoints import open_checkpoint
from halfpint.engine import (
    BatchGeneration,
    Cache,
    Decoder,
    Generation,
    GenerationOptions,
    SamplingOptions,
    generate_many,
    generation,
)
from halfpint.errors import RoomError, UsageError
from halfpint.formats import by_name
from halfpint.kernels import encode

PROMPTS = [
    [5, 80, 33, 120, 7],
    [9],
    [(11 * i) % 300 for i in range(70)],
    [1, 2, 3],
    [(13 * i) % 300 for i in range(40)],
]


@pytest.fixture(scope="module", params=["llama", "gemma3_text", "qwen3_moe", "phi3"])
def decoder(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    tiny_models.save_tiny(request.param, folder)
    return Decoder.load(open_checkpoint(folder), lambda _, weight: in_codes(weight), activations="int8")


def in_codes(weight):
    return encode(weight, by_name("q4_0")) if weight.ndim == 2 else weight


@pytest.mark.parametrize("sampling", [SamplingOptions(), SamplingOptions(temperature=1.0, seed=5)], ids=["0", "1"])
def test_every_text_is_that_which_it_is_alone(decoder, sampling, monkeypatch):
    monkeypatch.setattr(generation, "PREFILL_CHUNK", 50)
    options = GenerationOptions(max_tokens=15, sampling=sampling)
    texts, record = generate_many(decoder, PROMPTS, options)
    assert texts == [list(Generation(decoder, prompt, options)) for prompt in PROMPTS]
    assert record.prompt_tokens == sum(map(len, PROMPTS))
    assert record.generated_tokens == 15 * len(PROMPTS)
    assert record.prefill_seconds > 0
    assert record.decode_seconds > 0


def test_texts_end_one_by_one(decoder):
    alone = list(Generation(decoder, PROMPTS[0], GenerationOptions(max_tokens=12)))
    options = GenerationOptions(max_tokens=12, stop_ids=frozenset({alone[3]}))
    caches = [Cache(decoder.config), Cache(decoder.config, limit=6), Cache(decoder.config)]
    running = BatchGeneration(decoder, PROMPTS[:3], options, caches)
    texts: list[list[int]] = [[], [], []]
    for number, token in running:
        texts[number].append(token)
    assert texts[0] == alone[: alone.index(alone[3]) + 1]
    assert running.record.finishes[0] == "stop"
    assert len(texts[1]) <= 6
    limits = [None, 6, None]
    for prompt, text, limit in zip(PROMPTS, texts, limits, strict=False):
        cache = Cache(decoder.config, limit or 0)
        assert text == list(Generation(decoder, prompt, options, cache))


def test_any_number_of_threads_gives_the_same_bits(decoder, threads):
    rows = []
    for count in (1, 2, 3):
        threads(count)
        caches = [Cache(decoder.config) for _ in PROMPTS]
        rows.append(decoder.forward_many([np.array(prompt) for prompt in PROMPTS], caches))
    assert np.array_equal(rows[0], rows[1])
    assert np.array_equal(rows[0], rows[2])


def test_no_prompt_or_no_room_is_an_error(decoder):
    with pytest.raises(UsageError, match="at least one"):
        generate_many(decoder, [], GenerationOptions())
    with pytest.raises(UsageError, match="empty"):
        generate_many(decoder, [[1], []], GenerationOptions())
    with pytest.raises(RoomError, match="context of 3"):
        BatchGeneration(decoder, [[1, 2, 3]], GenerationOptions(), [Cache(decoder.config, limit=3)])
    with pytest.raises(RoomError, match="3 tokens"):
        decoder.forward_many([np.arange(4)], [Cache(decoder.config, limit=3)])
