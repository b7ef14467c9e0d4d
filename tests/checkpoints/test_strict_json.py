"""JSON of strangers: what two readers could see differently, or what takes for ever, is refused."""

import json
import os
from pathlib import Path

import pytest
from json_cases import HOSTILE, NON_FINITE

import tiny_models
from halfpint.checkpoints.strict_json import parse_json, read_json_object
from halfpint.errors import CheckpointError
from halfpint.pipeline import verbs
from halfpint.pipeline.options import QuantizeOptions


@pytest.mark.parametrize(
    "text",
    [
        b"{}",
        b' {"a": [1, -2.5, 1e-5, true, false, null, "x", {}], "b": {"a": 1}} \n',
        '{"\u00e9": "\\u00e9 \\ud83d\\ude00 \u4e2d"}'.encode(),
        b'"{[,:]}\\""',
        b"12345678901234567890",
        b"[]",
    ],
)
def test_sound_json_is_read_as_python_reads_it(text: bytes) -> None:
    assert parse_json(text, "x.json") == json.loads(text)


@pytest.mark.parametrize("name", [*HOSTILE, *NON_FINITE])
def test_hostile_json_ends_in_our_error(name: str) -> None:
    with pytest.raises(CheckpointError, match=r"x\.json"):
        parse_json((HOSTILE | NON_FINITE)[name], "x.json")


@pytest.mark.parametrize("text", [b"[]", b"1", b'"a"', b"null"])
def test_a_file_that_holds_no_object_is_refused(text: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(text)
    with pytest.raises(CheckpointError, match="not a JSON object"):
        read_json_object(tmp_path / "x.json", 100)


def test_a_large_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.touch()
    os.truncate(path, 1 << 40)
    with pytest.raises(CheckpointError, match="more than 1000"):
        read_json_object(path, 1000)


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity", "1e400"])
@pytest.mark.parametrize("key", ["initializer_range", "aux_loss_coef", "classifier_dropout"])
def test_numbers_that_are_not_finite_matter_only_where_they_are_used(word: str, key: str, tmp_path: Path) -> None:
    tiny_models.save_tiny("llama", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    text = json.dumps(config | {key: "HERE"}).replace('"HERE"', word)
    (tmp_path / "config.json").write_text(text)
    verbs.verify(tmp_path)
    for container in ("gguf", "compressed-tensors"):
        options = QuantizeOptions(bits=8, container=container, calibrate=False, measure=None)
        verbs.verify(verbs.quantize(tmp_path, tmp_path.parent / f"{tmp_path.name}.{container}", options).output)
    for used in ("rms_norm_eps", "rope_theta"):
        section = {"rope_type": "default", "rope_theta": "HERE"} if used == "rope_theta" else None
        changed = config | ({"rope_parameters": section} if section else {used: "HERE"})
        (tmp_path / "config.json").write_text(json.dumps(changed).replace('"HERE"', word))
        with pytest.raises(CheckpointError, match=used):
            verbs.plan(tmp_path, QuantizeOptions(bits=8, calibrate=False))
