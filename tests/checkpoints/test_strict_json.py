"""JSON of strangers: what two readers could see differently, or what takes for ever, is refused."""

import json
import os
from pathlib import Path

import pytest
from json_cases import HOSTILE

from halfpint.checkpoints.strict_json import parse_json, read_json_object
from halfpint.errors import CheckpointError


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


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_json_ends_in_our_error(name: str) -> None:
    with pytest.raises(CheckpointError, match=r"x\.json"):
        parse_json(HOSTILE[name], "x.json")


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
