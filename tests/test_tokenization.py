"""Tokenizers give the same ids from a folder and from GGUF metadata; templates do no harm; broken files are refused."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer as HfTokenizer
from tokenizers import models, normalizers, pre_tokenizers, processors

import made_tokenizers
from halfpint.checkpoints import pretokenizers
from halfpint.checkpoints.gguf_metadata import GgufValue, Metadata
from halfpint.checkpoints.gguf_tokenizer import tokenizer_metadata
from halfpint.checkpoints.sentencepiece import merges_of_scores, scores_of_merges
from halfpint.checkpoints.tokenizer_files import read_tokenizer_files
from halfpint.errors import CheckpointError, UnsupportedError, UsageError
from halfpint.tokenization import StreamDecoder, Tokenizer, folder_files, render_chat, render_chats
from halfpint.tokenization.gguf_vocabulary import tokenizer_from_metadata

MODELS = Path(__file__).parents[2] / "shared" / "models"
DEMO = Path(__file__).parents[1] / "src" / "halfpint" / "demo_model"
REAL = {"demo": DEMO, "stories260K": MODELS / "stories260K", "babyllama-105": MODELS / "babyllama-105"}


def from_folder(folder: Path, config: Mapping[str, Any] | None = None) -> Tokenizer:
    files = read_tokenizer_files(folder, config or {})
    assert files is not None
    return Tokenizer(files.tokenizer, files.special, (), (), files.chat_template)


def from_metadata(values: Mapping[str, GgufValue]) -> Tokenizer:
    return tokenizer_from_metadata(Metadata(values, "model.gguf"))


def pair(folder: Path) -> tuple[Tokenizer, Tokenizer]:
    return from_folder(folder), from_metadata(tokenizer_metadata(folder, {}))


@pytest.fixture(params=[*made_tokenizers.KINDS, *REAL])
def both(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Tokenizer, Tokenizer]:
    """A tokenizer from its folder, and from the GGUF metadata made of it."""
    if request.param in REAL:
        folder = REAL[request.param]
        if not folder.is_dir():
            pytest.skip(f"{folder} is not there")
    else:
        folder = made_tokenizers.save(made_tokenizers.KINDS[request.param](), tmp_path / "model")
    return pair(folder)


def test_ids_are_the_same_from_gguf(both: tuple[Tokenizer, Tokenizer]) -> None:
    original, copy = both
    assert copy.vocab_size == original.vocab_size
    assert copy.bos_id == original.bos_id
    assert copy.eos_ids[:1] == original.eos_ids[:1]
    for line in made_tokenizers.lines() + made_tokenizers.shared_lines():
        assert copy.encode(line) == original.encode(line), line
    for line in made_tokenizers.lines(30):
        assert copy.encode(line, add_special=False) == original.encode(line, add_special=False), line


def test_texts_are_the_same_from_gguf(both: tuple[Tokenizer, Tokenizer]) -> None:
    original, copy = both
    for line in made_tokenizers.lines(100):
        ids = original.encode(line)
        assert copy.decode(ids) == original.decode(ids)


def test_a_folder_made_from_gguf_has_the_same_tokenizer(both: tuple[Tokenizer, Tokenizer], tmp_path: Path) -> None:
    original, copy = both
    for name, data in folder_files(copy).items():
        (tmp_path / name).write_bytes(data)
    again = from_folder(tmp_path)
    assert (again.special, again.chat_template) == (copy.special, copy.chat_template)
    for line in made_tokenizers.lines(100):
        assert again.encode(line) == original.encode(line), line
        assert again.encode(line, add_special=False) == original.encode(line, add_special=False), line


def test_streamed_text_is_the_whole_text(both: tuple[Tokenizer, Tokenizer]) -> None:
    for tokenizer in both:
        for line in made_tokenizers.lines(60):
            ids = tokenizer.encode(line, add_special=False)
            stream = StreamDecoder(tokenizer)
            pieces = [stream.step(token) for token in ids]
            assert "".join(pieces) + stream.finish() == tokenizer.decode(ids)
            assert not any(piece.endswith("\ufffd") for piece in pieces if "\ufffd" not in line)


def test_a_stream_continues_its_context(tmp_path: Path) -> None:
    tokenizer, _ = pair(made_tokenizers.save(made_tokenizers.KINDS["llama-2"](), tmp_path / "model"))
    ids = tokenizer.encode("You can weigh flour", add_special=False)
    for cut in range(1, len(ids)):
        stream = StreamDecoder(tokenizer, ids[:cut])
        rest = "".join(map(stream.step, ids[cut:])) + stream.finish()
        assert tokenizer.decode(ids[:cut]) + rest == tokenizer.decode(ids)


def test_a_stream_of_broken_bytes_does_not_wait_for_ever(tmp_path: Path) -> None:
    tokenizer, _ = pair(made_tokenizers.save(made_tokenizers.KINDS["llama-2"](), tmp_path / "model"))
    broken = tokenizer.model.token_to_id("<0xF0>")
    stream = StreamDecoder(tokenizer)
    assert any(stream.step(broken) for _ in range(40))


def test_text_that_is_no_unicode_is_encoded() -> None:
    tokenizer = Tokenizer(made_tokenizers.KINDS["gpt-2"](), from_folder(DEMO).special, (), (), None)
    assert tokenizer.decode(tokenizer.encode("a\ud800b")) == "a?b"


@pytest.mark.parametrize("ids", [[-1], [1 << 40]])
def test_what_is_no_id_is_refused(ids: list[int]) -> None:
    with pytest.raises(UsageError):
        from_folder(DEMO).decode(ids)


def test_every_pre_tokenizer_has_one_meaning() -> None:
    names = [name for rule in pretokenizers.PRE_TOKENIZERS for name in rule.names]
    assert len(set(names)) == len(names)
    meanings = {(rule.splits, rule.nfc, rule.ignore_merges) for rule in pretokenizers.PRE_TOKENIZERS}
    assert len(meanings) == len(pretokenizers.PRE_TOKENIZERS)


@pytest.mark.parametrize("rule", pretokenizers.PRE_TOKENIZERS, ids=lambda rule: rule.names[0])
def test_every_pre_tokenizer_is_found_again(rule: pretokenizers.PreTokenizer) -> None:
    spelled = json.loads(made_tokenizers.of_rule(rule.names[0]).to_str())
    assert pretokenizers.recognise(spelled) == rule
    assert all(pretokenizers.by_name(name) == rule for name in rule.names)


def with_pre_tokenizer(pre_tokenizer: Any) -> HfTokenizer:
    tokenizer = made_tokenizers.KINDS["gpt-2"]()
    tokenizer.pre_tokenizer = pre_tokenizer
    return tokenizer


def with_normalizer(normalizer: Any, kind: str = "gpt-2") -> HfTokenizer:
    tokenizer = made_tokenizers.KINDS[kind]()
    tokenizer.normalizer = normalizer
    return tokenizer


def with_template(template: str) -> HfTokenizer:
    tokenizer = made_tokenizers.KINDS["gpt-2"]()
    special = [("<|begin|>", 0), ("<|end|>", 1)]
    tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=special)
    return tokenizer


def with_merges(change: Callable[[list[Any]], object]) -> HfTokenizer:
    spelled = json.loads(made_tokenizers.KINDS["llama-2"]().to_str())
    change(spelled["model"]["merges"])
    return HfTokenizer.from_str(json.dumps(spelled))


def _second_cut(merges: list[Any]) -> int:
    """Index of a merge that gives the same token as the one before."""
    return next(i for i in range(1, len(merges)) if "".join(merges[i]) == "".join(merges[i - 1]))


QWEN2_STEPS = (made_tokenizers.split(made_tokenizers.QWEN2), made_tokenizers.TO_BYTES)

UNSAYABLE: Mapping[str, tuple[Callable[[], HfTokenizer], str]] = {
    "another pattern": (
        lambda: with_pre_tokenizer(pre_tokenizers.Sequence([made_tokenizers.split(r"\w+"), made_tokenizers.TO_BYTES])),
        "pre-tokenizer",
    ),
    "a prefix space": (lambda: with_pre_tokenizer(pre_tokenizers.ByteLevel(add_prefix_space=True)), "ByteLevel"),
    "whitespace": (lambda: with_pre_tokenizer(pre_tokenizers.Whitespace()), "Whitespace"),
    "lower case": (lambda: with_normalizer(normalizers.Lowercase()), "Lowercase"),
    "NFKC": (lambda: with_normalizer(normalizers.NFKC()), "NFKC"),
    "ignored merges": (
        lambda: made_tokenizers.byte_level(QWEN2_STEPS, ignore_merges=True),
        "ignore_merges True",
    ),
    "two tokens before": (lambda: with_template("<|begin|> <|end|> $A"), "one token before"),
    "WordPiece": (
        lambda: HfTokenizer(models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]")),
        "WordPiece",
    ),
    "Unigram": (lambda: HfTokenizer(models.Unigram([("<unk>", 0.0), ("a", -1.0)], unk_id=0)), "Unigram"),
    "NFKC before spaces": (
        lambda: with_normalizer(normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(" ", "▁")]), "llama-2"),
        "NFKC",
    ),
    "another space": (
        lambda: made_tokenizers.sentencepiece(None, pre_tokenizers.Metaspace(replacement="_")),
        "'_'",
    ),
    "a missing merge": (lambda: with_merges(lambda merges: merges.pop(3)), "never joins"),
    "merges out of turn": (
        lambda: with_merges(lambda merges: merges.append(merges.pop(_second_cut(merges)))),
        "choose another container",
    ),
}


@pytest.mark.parametrize("name", UNSAYABLE)
def test_what_gguf_cannot_say_is_refused(name: str, tmp_path: Path) -> None:
    make, words = UNSAYABLE[name]
    (tmp_path / "tokenizer.json").write_text(make().to_str())
    with pytest.raises(UnsupportedError, match=words):
        tokenizer_metadata(tmp_path, {})


def test_scores_and_merges_are_the_same_thing() -> None:
    spelled = json.loads(made_tokenizers.KINDS["llama-2"]().to_str())["model"]
    merges = [(first, second) for first, second in spelled["merges"]]
    normal = [not token.startswith("<") for token in spelled["vocab"]]
    scores = scores_of_merges(spelled["vocab"], normal, merges)
    joined = {token: token_id for token, token_id in spelled["vocab"].items() if normal[token_id]}
    assert merges_of_scores(joined, scores) == merges
    assert len(np.unique(scores[scores < 0])) == (scores < 0).sum()


def test_rows_without_tokens_are_filled(tmp_path: Path) -> None:
    folder = made_tokenizers.save(made_tokenizers.KINDS["qwen-2"](), tmp_path / "model")
    size = from_folder(folder).vocab_size
    values = tokenizer_metadata(folder, {"vocab_size": size + 3})
    assert list(values["tokenizer.ggml.tokens"].data)[-1] == f"[PAD{size + 2}]"
    assert from_metadata(values).encode("You can weigh") == from_folder(folder).encode("You can weigh")
    with pytest.raises(CheckpointError, match="rows"):
        tokenizer_metadata(folder, {"vocab_size": size - 1})


def test_a_folder_without_a_tokenizer_says_so(tmp_path: Path) -> None:
    assert tokenizer_metadata(tmp_path, {})["tokenizer.ggml.model"].data == "none"
    with pytest.raises(UnsupportedError, match="no tokenizer"):
        from_metadata(tokenizer_metadata(tmp_path, {}))
    (tmp_path / "tokenizer.model").write_bytes(b"\n")
    with pytest.raises(UnsupportedError, match="save_pretrained"):
        tokenizer_metadata(tmp_path, {})


@pytest.mark.parametrize(
    ("name", "contents", "words"),
    [
        ("tokenizer.json", "", "no tokenizer"),
        ("tokenizer.json", "{", "no tokenizer"),
        ("tokenizer.json", "[" * 100_000, "no tokenizer"),
        ("tokenizer.json", '{"model": {"type": "BPE", "vocab": {"a": -1}, "merges": []}}', "no tokenizer"),
        ("tokenizer.json", '{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["b c"]}}', "no tokenizer"),
        ("tokenizer.json", '{"model": {"type": "BPE", "vocab": {"a": 4294967295}, "merges": []}}', "4294967295"),
        ("tokenizer.json", '{"model": {"type": "BPE", "vocab": {"a": 524288}, "merges": []}}', "524288"),
        ("tokenizer_config.json", '{"eos_token": 3}', "must be a text"),
        ("tokenizer_config.json", '{"chat_template": 3}', "chat_template"),
        ("tokenizer_config.json", "[]", "object"),
        ("generation_config.json", '{"eos_token_id": true}', "True"),
        ("chat_template.jinja", "\x00" * (1 << 20) + "x", "bytes"),
    ],
)
def test_broken_files_are_refused(name: str, contents: str, words: str, tmp_path: Path) -> None:
    folder = made_tokenizers.save(made_tokenizers.KINDS["gpt-2"](), tmp_path / "model")
    (folder / name).write_text(contents)
    with pytest.raises(CheckpointError, match=words):
        from_folder(folder)


def test_ends_come_from_all_files(tmp_path: Path) -> None:
    folder = made_tokenizers.save(made_tokenizers.KINDS["gpt-2"](), tmp_path / "model")
    (folder / "generation_config.json").write_text('{"eos_token_id": [5, 1]}')
    original = from_folder(folder, {"eos_token_id": 7})
    assert original.eos_ids == (1, 5, 7)
    values = tokenizer_metadata(folder, {"eos_token_id": 7})
    assert from_metadata(values).eos_ids == (1, 5, 7)


TALK = [{"role": "user", "content": 'Hello <there> & "you"'}, {"role": "assistant", "content": "Hi"}]

TEMPLATES = {
    "chatml": (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
        '<|im_start|>user\nHello <there> & "you"<|im_end|>\n<|im_start|>assistant\nHi<|im_end|>\n'
        "<|im_start|>assistant\n",
    ),
    "blocks are trimmed": ("{% for m in messages %}\n    {% if true %}\nx\n    {% endif %}\n{% endfor %}", "x\nx\n"),
    "json": ("{{ messages[0] | tojson }}", '{"role": "user", "content": "Hello <there> & \\"you\\""}'),
    "date": ("{{ strftime_now('%d %b %Y') }}", "26 Jul 2024"),
    "namespace": (
        "{% set n = namespace(k=0) %}{% for m in messages %}{% set n.k = n.k + 1 %}{% endfor %}{{ n.k }}",
        "2",
    ),
    "loop controls": ("{% for m in messages %}{{ loop.index }}{% break %}{% endfor %}", "1"),
    "generation": ("{% generation %}{{ messages[1].content }}{% endgeneration %}", "Hi"),
    "generation is a scope": ("{% set x = 1 %}{% generation %}{% set x = 2 %}{% endgeneration %}{{ x }}", "1"),
    "json options in order": ("{{ {'b': 'ü'} | tojson(true, 1) }}", '{\n "b": "\\u00fc"\n}'),
    "methods": ("{{ messages[0].content.split(' ')[0].strip().upper() }}", "HELLO"),
    "specials": ("{{ bos_token }}{{ eos_token }}{{ tools is none }}", "<|begin|><|end|>True"),
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_render_as_in_transformers(name: str) -> None:
    template, expected = TEMPLATES[name]
    variables = {"messages": TALK, "add_generation_prompt": True, "tools": None}
    assert render_chat(template, {**variables, "bos_token": "<|begin|>", "eos_token": "<|end|>"}) == expected


def test_templates_know_the_special_tokens() -> None:
    template = "{{ bos_token }}{{ eos_token }}{{ tools is none }}{{ messages[0].content }}"
    tokenizer = Tokenizer(made_tokenizers.KINDS["gpt-2"](), from_folder(DEMO).special, (), (), template)
    assert tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}]) == "<|begin|><|end|>TrueHi"


def test_the_demo_model_talks() -> None:
    tokenizer = from_folder(DEMO)
    text = tokenizer.apply_chat_template(TALK[:1])
    assert TALK[0]["content"] in text
    assert tokenizer.encode(text, add_special=False)[0] == tokenizer.bos_id


def test_no_template_is_told() -> None:
    made = from_folder(DEMO)
    with pytest.raises(UnsupportedError, match=r"chat_template\.jinja"):
        Tokenizer(made.model, made.special, (), (), None).apply_chat_template(TALK)


HARMFUL = {
    "classes": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "attr filter": "{{ ''|attr('__class__') }}",
    "attr by format": "{{ '{0.__class__}'.format(1) }}",
    "globals": "{{ raise_exception.__globals__ }}",
    "cycler": "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "self": "{{ self.__init__.__globals__ }}",
    "import": "{% import 'os' as os %}{{ os }}",
    "include": "{% include '/etc/passwd' %}",
    "changed messages": "{{ messages.append(1) }}",
    "range": "{% for i in range(10**9) %}{% endfor %}",
    "nested loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "power": "{{ 9 ** (9 ** 9) }}",
    "long text": "{{ 'a' * 10 ** 10 }}",
    "long format": "{{ '%2000000000d' % 1 }}",
    "long format method": "{{ '{:2000000000}'.format(1) }}",
    "padding": "{{ 'a'.ljust(2 * 10 ** 9) }}",
    "center": "{{ 'a'|center(2000000000) }}",
    "doubling": "{% set n = namespace(s='ab') %}{% for i in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}{{ n.s }}",
    "nested lists": "{% set n = namespace(s=[1]) %}{% for i in range(60) %}"
    "{% set n.s = [n.s, n.s] %}{% endfor %}{{ n.s }}",
    "much text": "{% for i in range(99999) %}{{ 'abcdefghij' * 10000 }}{% endfor %}",
    "lipsum": "{{ lipsum(n=100000) }}",
    "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "broken": "{% for %}",
    "unknown filter": "{{ 1|nothing }}",
    "refusal": "{{ raise_exception('roles must alternate') }}",
    "undefined": "{{ nothing.at.all }}",
    "division": "{{ 1 // 0 }}",
    "deep": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "too long": "x" * ((1 << 20) + 1),
}


@pytest.mark.parametrize("name", HARMFUL)
def test_harmful_templates_end_in_our_error(name: str) -> None:
    with pytest.raises(CheckpointError, match="chat template"):
        render_chat(HARMFUL[name], {"messages": TALK})


def test_a_refusal_is_quoted() -> None:
    with pytest.raises(CheckpointError, match="roles must alternate"):
        render_chat(HARMFUL["refusal"], {"messages": TALK})


def test_many_conversations_take_one_process() -> None:
    variables = [{"messages": [{"role": "user", "content": str(number)}]} for number in range(50)]
    assert render_chats("{{ messages[0].content }}", variables) == [str(number) for number in range(50)]


def test_what_is_not_json_is_a_wrong_use() -> None:
    with pytest.raises(UsageError, match="neither"):
        render_chat("", {"messages": [{"content": object()}]})
