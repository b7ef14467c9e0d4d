"""A byte order mark is no text: UTF-8 is read without it, UTF-16 and UTF-32 are refused by name."""

import codecs
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from click.testing import CliRunner

from halfpint.calibration.text import read_files
from halfpint.checkpoints.strict_json import parse_json
from halfpint.cli import main
from halfpint.errors import CheckpointError, UsageError
from halfpint.models import opening
from halfpint.pipeline import verbs
from halfpint.pipeline.options import QuantizeOptions
from halfpint.planning import plan_file
from halfpint.tokenization import load_tokenizer

OTHERS = {
    "UTF-16": [codecs.BOM_UTF16_LE + "{}".encode("utf-16-le"), codecs.BOM_UTF16_BE + "{}".encode("utf-16-be")],
    "UTF-32": [codecs.BOM_UTF32_LE + "{}".encode("utf-32-le"), codecs.BOM_UTF32_BE + "{}".encode("utf-32-be")],
}
OTHER = [(name, data) for name, cases in OTHERS.items() for data in cases]
MODEL_FILES = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "special_tokens_map.json",
    "added_tokens.json",
]


def model(folder: Path) -> Path:
    """The demo model with one of each file beside the weights."""
    shutil.copytree(opening.demo_folder(), folder)
    for name in ("generation_config.json", "special_tokens_map.json", "added_tokens.json"):
        if not (folder / name).exists():
            (folder / name).write_text("{}")
    (folder / "tokenizer_config.json").write_text('{"eos_token": "<|end|>", "bos_token": "<|begin|>"}')
    (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    return folder


def spoken(folder: Path) -> object:
    checkpoint = opening.open_model(folder)
    try:
        tokenizer = load_tokenizer(checkpoint)
        rendered = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}])
        return dict(checkpoint.config), tokenizer.special, tokenizer.encode("Hi"), rendered
    finally:
        checkpoint.close()


@pytest.mark.parametrize("name", MODEL_FILES)
def test_a_mark_changes_nothing_of_a_model(name: str, tmp_path: Path) -> None:
    folder = model(tmp_path / "model")
    before = spoken(folder)
    (folder / name).write_bytes(codecs.BOM_UTF8 + (folder / name).read_bytes())
    assert spoken(folder) == before


@pytest.mark.parametrize("name", MODEL_FILES)
@pytest.mark.parametrize(("encoding", "data"), OTHER)
def test_other_encodings_are_refused_by_name(name: str, encoding: str, data: bytes, tmp_path: Path) -> None:
    folder = model(tmp_path / "model")
    (folder / name).write_bytes(data)
    with pytest.raises(CheckpointError, match=f"{name} is {encoding}"):
        spoken(folder)


def test_only_one_mark_is_left_out() -> None:
    assert parse_json(codecs.BOM_UTF8 + b'{"a": "\xef\xbb\xbf"}', "x") == {"a": "\ufeff"}
    with pytest.raises(CheckpointError, match="not JSON"):
        parse_json(codecs.BOM_UTF8 * 2 + b"{}", "x")


TEXTS: Mapping[str, tuple[str, str]] = {
    "a.txt": ("Größe\r\nund Maß", "Größe\nund Maß"),
    "a.jsonl": ('{"text": "Größe"}\n{"text": "Maß"}', "Größe\n\nMaß"),
    "b.jsonl": ('{"messages": [{"role": "user", "content": "Maß"}]}', "user: Maß"),
}


@pytest.mark.parametrize("name", TEXTS)
def test_a_mark_is_no_part_of_a_text(name: str, tmp_path: Path) -> None:
    stored, expected = TEXTS[name]
    path = tmp_path / name
    for mark in (b"", codecs.BOM_UTF8):
        path.write_bytes(mark + stored.encode())
        assert [source.text for source in read_files([path])] == [expected]
    for encoding, data in OTHER:
        path.write_bytes(data)
        with pytest.raises(UsageError, match=f"is {encoding}"):
            read_files([path])


def test_a_mark_is_no_part_of_a_plan(tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    options = QuantizeOptions(format="q8_0", calibrate=False, measure=None)
    verbs.save_plan("demo", verbs.plan("demo", options), path)
    before = plan_file.read(path)
    path.write_bytes(codecs.BOM_UTF8 + path.read_bytes())
    assert plan_file.read(path) == before
    for encoding, data in OTHER:
        path.write_bytes(data)
        with pytest.raises(UsageError, match=f"is {encoding}"):
            plan_file.read(path)


def generated(*arguments: str, stdin: bytes = b"") -> tuple[int, str]:
    told = CliRunner().invoke(main, ["generate", "demo", "--max-tokens", "4", "--temperature", "0", *arguments], stdin)
    return told.exit_code, told.output if told.exit_code else told.stdout


PROMPTS: Mapping[str, Callable[..., tuple[int, str]]] = {
    "argument": generated,
    "pipe": lambda text: generated("-", stdin=text.encode()),
}


@pytest.mark.parametrize("way", PROMPTS)
def test_a_mark_is_no_part_of_a_prompt(way: str) -> None:
    give = PROMPTS[way]
    assert give("\ufeffThe old house") == give("The old house")
    assert give("The old house")[0] == 0


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be"])
def test_a_prompt_in_utf_16_is_refused_by_name(encoding: str) -> None:
    mark = codecs.BOM_UTF16_BE if encoding == "utf-16-be" else b""
    code, told = generated("-", stdin=mark + "The old house".encode(encoding))
    assert code == 2
    assert "UTF-16" in told
