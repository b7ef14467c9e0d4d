"""Hostile safetensors files end in our error, in two seconds and 200 MB, and never pass where the reference refuses."""

import json
import os
import random
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors
import safetensors.numpy
from safetensors_cases import CASES, HUGE, SOUND, file_bytes, many, one, tensor

from halfpint.checkpoints import open_checkpoint
from halfpint.checkpoints.safetensors_file import SafetensorsFile
from halfpint.errors import CheckpointError, HalfpintError, UnsupportedError

WORKER = Path(__file__).with_name("hostile_worker.py")


@pytest.mark.parametrize("name", CASES)
def test_the_error_says_what_is_wrong(name: str, tmp_path: Path) -> None:
    data, words = CASES[name]
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    with pytest.raises((CheckpointError, UnsupportedError)) as caught:
        SafetensorsFile(path)
    assert words in str(caught.value)
    assert "model.safetensors" in str(caught.value)
    assert len(str(caught.value)) < 1_000


def test_every_case_keeps_within_two_seconds_and_200_megabytes(tmp_path: Path) -> None:
    for number, (data, _) in enumerate(CASES.values()):
        (tmp_path / f"{number:04}.safetensors").write_bytes(data)
    for number, (make, _) in enumerate(HUGE.values(), len(CASES)):
        (tmp_path / f"{number:04}.safetensors").write_bytes(make())
    done = subprocess.run([sys.executable, str(WORKER), str(tmp_path)], capture_output=True, check=False, text=True)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    names = [*CASES, *HUGE]
    assert len(answers) == len(names), f"{names[len(answers)]}: exit {done.returncode}: {done.stderr[-800:]}"
    wrong = [(names[i], a) for i, a in enumerate(answers) if a["error"] not in ("CheckpointError", "UnsupportedError")]
    assert not wrong
    for answer, (_, words) in zip(answers[len(CASES) :], HUGE.values(), strict=True):
        assert words in answer["text"]


def test_a_file_cut_at_any_byte_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    for length in range(len(SOUND)):
        path.write_bytes(SOUND[:length])
        with pytest.raises(CheckpointError):
            SafetensorsFile(path)


@pytest.mark.parametrize(
    "data",
    [
        SOUND,
        file_bytes(b"{}"),
        file_bytes(b"{}      "),
        file_bytes(b'{"__metadata__":{"format":"pt","\xc3\xa9":"\\u00e9"}}'),
        file_bytes(b'{\n "a" : { "shape" :\t[ 2 , 1 ], "data_offsets": [0, 8],\r\n"dtype":"F32" }\n}  ', bytes(8)),
        one(tensor(shape=[0], offsets=[0, 0]), b""),
        one(tensor(shape=[5, 0, 7], offsets=[0, 0]), b""),
        many(("b", tensor(offsets=[8, 16])), ("a", tensor()), ("z", tensor(shape=[0, 3], offsets=[8, 8])), data=16),
        many(("odd", tensor("U8", [3], [0, 3])), ("misaligned", tensor("F32", [1], [3, 7])), data=7),
        one(tensor("BOOL", [2, 2], [0, 4]), bytes(4)),
        one(tensor(shape=[1] * 32, offsets=[0, 4]), bytes(4)),
        many(("\u00fcber/..\\x y", tensor()), data=8),
    ],
)
def test_unusual_but_sound_files_read_as_the_reference_reads_them(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(data)
    file = SafetensorsFile(path)
    reference = safetensors.numpy.load(data)
    assert set(file.entries) == set(reference)
    for name, expected in reference.items():
        values = file.read(name)
        assert values.shape == expected.shape
        assert values.dtype == expected.dtype
        assert values.tobytes() == expected.tobytes()
    file.close()


def test_whatever_the_reference_refuses_is_refused(tmp_path: Path) -> None:
    generator = random.Random(20240229)
    path = tmp_path / "model.safetensors"
    accepted = 0
    for _ in range(1_500):
        data = _mutated(SOUND, generator)
        path.write_bytes(data)
        try:
            file = SafetensorsFile(path)
        except HalfpintError:
            continue
        accepted += 1
        with safetensors.safe_open(str(path), framework="np") as reference:
            assert set(reference.keys()) == set(file.entries)
        file.close()
    assert accepted > 5


def _mutated(data: bytes, generator: random.Random) -> bytes:
    text = bytearray(data)
    for _ in range(generator.choice((1, 1, 1, 2, 4))):
        kind = generator.randrange(4)
        position = generator.randrange(len(text))
        if kind == 0:
            text[position] = generator.choice(b'0123456789{}[]",: \n\\aFUI')
        elif kind == 1:
            del text[position : position + generator.randrange(1, 5)]
        elif kind == 2:
            text[position:position] = generator.choice((b"0", b" ", b'"', b",", b"[", b"9" * 20, b"-", b".0"))
        else:
            other = generator.randrange(len(text))
            text[position : position + 4] = text[other : other + 4]
    return bytes(text)


def test_a_file_that_shrinks_while_open_is_an_error_and_no_crash(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(SOUND)
    file = SafetensorsFile(path)
    os.truncate(path, len(SOUND) - 1)
    with pytest.raises(CheckpointError, match="changed while it was being read"):
        file.read("a")
    with pytest.raises(CheckpointError, match=r"'c'.*model\.safetensors ends at byte .*cut short"):
        file.read("c")
    file.close()
    with pytest.raises(CheckpointError, match="closed"):
        file.read("a")


@pytest.mark.parametrize("kind", ["folder", "fifo", "socket", "device", "missing", "dangling", "loop", "long", "nul"])
def test_what_is_no_regular_file_is_refused_at_once(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    endpoint = socket.socket(socket.AF_UNIX)
    make = {
        "folder": path.mkdir,
        "fifo": lambda: os.mkfifo(path),
        "socket": lambda: endpoint.bind(os.path.relpath(path)),
        "device": lambda: path.symlink_to("/dev/zero"),
        "dangling": lambda: path.symlink_to("nowhere"),
        "loop": lambda: path.symlink_to(path.name),
    }
    make.get(kind, lambda: None)()
    endpoint.close()
    given = {"long": tmp_path / ("x" * 300), "nul": Path("a\0b")}.get(kind, path)
    with pytest.raises(CheckpointError):
        SafetensorsFile(given)
    with pytest.raises(CheckpointError):
        open_checkpoint(given)
