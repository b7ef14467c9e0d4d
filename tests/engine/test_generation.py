"""Generation agrees with transformers' greedy search, and ends when it should."""

from __future__ import annotations

import dataclasses

import pytest
import tokenizers
import torch
from tokenizers import decoders, models

import tiny_models
from halfpint.checkpoints import open_checkpoint
from halfpint.engine import Cache, Decoder, Generation, GenerationOptions, SamplingOptions, stream_text
from halfpint.engine import generation as module
from halfpint.errors import RoomError, UsageError
from halfpint.tokenization import load_tokenizer


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    model = tiny_models.save_tiny("llama", folder)
    checkpoint = open_checkpoint(folder)
    return model, Decoder.load(checkpoint), load_tokenizer(checkpoint)


PROMPT = [5, 80, 33, 120, 7]


def test_greedy_tokens_are_those_of_transformers(tiny):
    model, decoder, _ = tiny
    with torch.no_grad():
        ids = torch.tensor([PROMPT])
        expected = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=40, do_sample=False, eos_token_id=-1
        )
    generation = Generation(decoder, PROMPT, GenerationOptions(max_tokens=40))
    assert list(generation) == expected[0, len(PROMPT) :].tolist()
    record = generation.record
    assert (record.prompt_tokens, record.generated_tokens, record.finish) == (5, 40, "length")
    assert record.prefill_tokens_per_second > 0
    assert record.decode_tokens_per_second > 0


def test_prefilling_in_pieces_changes_no_token(tiny, monkeypatch):
    _, decoder, _ = tiny
    prompt = [(7 * i) % 300 for i in range(50)]
    whole = list(Generation(decoder, prompt, GenerationOptions(max_tokens=10)))
    monkeypatch.setattr(module, "PREFILL_CHUNK", 16)
    assert list(Generation(decoder, prompt, GenerationOptions(max_tokens=10))) == whole


@pytest.mark.parametrize(("hidden", "inner", "tokens"), [(2048, 5632, 512), (4096, 11008, 256), (8192, 1 << 20, 64)])
def test_pieces_of_a_prompt_keep_activations_small(hidden, inner, tokens, tiny):
    config = dataclasses.replace(tiny[1].config, hidden_size=hidden, intermediate_size=inner)
    assert module.chunk_tokens(config) == tokens


def test_a_stop_token_ends_the_text_and_is_given(tiny):
    _, decoder, _ = tiny
    tokens = list(Generation(decoder, PROMPT, GenerationOptions(max_tokens=10)))
    generation = Generation(decoder, PROMPT, GenerationOptions(max_tokens=10, stop_ids=frozenset({tokens[4]})))
    stopped = list(generation)
    assert stopped == tokens[: tokens.index(tokens[4]) + 1]
    assert generation.record.finish == "stop"


def test_the_end_of_the_context_ends_the_text(tiny):
    _, decoder, _ = tiny
    generation = Generation(decoder, PROMPT, GenerationOptions(max_tokens=100), Cache(decoder.config, limit=12))
    assert len(list(generation)) == 12 - len(PROMPT) + 1
    assert generation.record.finish == "context"


def test_a_prompt_that_fills_the_context_is_an_error(tiny):
    _, decoder, _ = tiny
    with pytest.raises(RoomError, match="context of 5"):
        Generation(decoder, PROMPT, GenerationOptions(), Cache(decoder.config, limit=5))
    with pytest.raises(UsageError, match="empty"):
        Generation(decoder, [], GenerationOptions())


def test_a_cache_carries_a_conversation_on(tiny):
    _, decoder, _ = tiny
    cache = Cache(decoder.config)
    first = list(Generation(decoder, PROMPT, GenerationOptions(max_tokens=5), cache))
    more = [first[-1], 9, 10]  # the last token given is not in the cache yet
    second = list(Generation(decoder, more, GenerationOptions(max_tokens=5), cache))
    assert second == list(Generation(decoder, [*PROMPT, *first, 9, 10], GenerationOptions(max_tokens=5)))


def test_streamed_text_is_the_text_of_all_tokens(tiny):
    _, decoder, tokenizer = tiny
    options = GenerationOptions(max_tokens=60, sampling=SamplingOptions(temperature=1.0, seed=3))
    tokens = list(Generation(decoder, PROMPT, options))
    pieces = list(stream_text(Generation(decoder, PROMPT, options), tokenizer, frozenset()))
    assert "".join(pieces) == tokenizer.decode(tokens)


def test_text_goes_on_with_the_space_that_a_first_word_would_not_have(tiny):
    _, decoder, tokenizer = tiny
    words = models.WordLevel({f"\u2581w{number}": number for number in range(decoder.config.vocab_size)})
    spelling = tokenizers.Tokenizer(words)
    spelling.decoder = decoders.Metaspace()
    told, options = dataclasses.replace(tokenizer, model=spelling), GenerationOptions(max_tokens=5)
    tokens = list(Generation(decoder, PROMPT, options))
    text = "".join(stream_text(Generation(decoder, PROMPT, options), told, frozenset(), PROMPT))
    assert text.startswith(" w")
    assert told.decode(PROMPT) + text == told.decode([*PROMPT, *tokens])
