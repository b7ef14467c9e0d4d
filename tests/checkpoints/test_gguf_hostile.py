"""Hostile GGUF files end in our error, in two seconds and 200 MB, whatever is wrong with them."""

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

import gguf_bytes as g
from gguf_bytes import SOUND
from gguf_hostile_cases import CASES, IMPERFECT, byte_level, spm
from halfpint.checkpoints import open_checkpoint
from halfpint.checkpoints.gguf import GGUF
from halfpint.errors import CheckpointError, UnsupportedError
from halfpint.tokenization import load_tokenizer

WORKER = Path(__file__).with_name("hostile_worker.py")

# What only an attacker would make: sizes that the file has, but that no header needs.
SPARSE = {
    "a text of 4 GB": g.key("k", g.STRING, struct.pack("<Q", 4 << 30)),
    "an array of 4 GB": g.array_key("k", g.UINT8, 4 << 30, b""),
    "a hundred million strings": g.array_key("k", g.STRING, 100_000_000, b""),
    "four million empty strings": g.array_key("k", g.STRING, 4_000_000, b""),
    "strings of 60 MB": g.array_key("k", g.STRING, 60, b"".join(g.string(bytes(1 << 20)) for _ in range(60))),
    "an array of 60 MB": g.array_key("k", g.UINT64, 7_800_000, b""),
}


def open_and_tokenize(path: Path) -> None:
    checkpoint = open_checkpoint(path)
    try:
        load_tokenizer(checkpoint)
    finally:
        checkpoint.close()


@pytest.mark.parametrize("name", CASES)
def test_the_error_says_what_is_wrong(name: str, tmp_path: Path) -> None:
    data, words = CASES[name]
    path = tmp_path / "model.gguf"
    path.write_bytes(data)
    with pytest.raises((CheckpointError, UnsupportedError)) as caught:
        open_and_tokenize(path)
    assert words in str(caught.value)


@pytest.mark.parametrize("name", IMPERFECT)
def test_what_every_other_tool_loads_is_loaded_and_said(name: str, tmp_path: Path) -> None:
    data, note = IMPERFECT[name]
    path = tmp_path / "model.gguf"
    path.write_bytes(data)
    checkpoint = open_checkpoint(path)
    notes = load_tokenizer(checkpoint).notes
    assert [found for found in notes if note and note in found] if note else not notes


def test_every_case_keeps_within_two_seconds_and_200_megabytes(tmp_path: Path) -> None:
    for number, (data, _) in enumerate(CASES.values()):
        (tmp_path / f"{number:04}.gguf").write_bytes(data)
    for number, key in enumerate(SPARSE.values(), len(CASES)):
        path = tmp_path / f"{number:04}.gguf"
        path.write_bytes(SOUND.but(key_count=3, keys=(*SOUND.keys, key), tensors=(), tensor_count=2, data=b"").file())
        os.truncate(path, 8 << 30)
    total = len(CASES) + len(SPARSE)
    done = subprocess.run([sys.executable, str(WORKER), str(tmp_path)], capture_output=True, check=False, text=True)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    names = [*CASES, *SPARSE]
    assert len(answers) == total, f"{names[len(answers)]}: exit code {done.returncode}: {done.stderr[-800:]}"
    wrong = [(names[i], a) for i, a in enumerate(answers) if a["error"] not in ("CheckpointError", "UnsupportedError")]
    assert not wrong


def test_sound_files_are_not_refused(tmp_path: Path) -> None:
    path = tmp_path / "sound.gguf"
    for data in (SOUND.file(), SOUND.but(version=2).file(), SOUND.but(data=SOUND.data + bytes(20)).file()):
        path.write_bytes(data)
        checkpoint = GGUF.open(path)
        assert list(checkpoint.tensors) == ["a", "b"]
        assert checkpoint.tensors["a"].shape == (2, 4)
        checkpoint.close()
    for data in (spm(), byte_level()):
        path.write_bytes(data)
        open_and_tokenize(path)


@pytest.mark.parametrize("base", [SOUND.file(), spm(), byte_level()], ids=["plain", "spm", "byte-level"])
def test_a_file_cut_anywhere_is_an_error(base: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    for length in range(len(base)):
        path.write_bytes(base[:length])
        with pytest.raises(CheckpointError):
            open_checkpoint(path)


@pytest.mark.parametrize("value", [0, 1, 0x7F, 0x80, 0xFF])
def test_a_byte_changed_anywhere_is_read_or_refused(value: int, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    base = spm()
    for position in range(len(base)):
        path.write_bytes(base[:position] + bytes([value]) + base[position + 1 :])
        try:
            open_and_tokenize(path)
        except (CheckpointError, UnsupportedError):
            continue


def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.gguf")
    (tmp_path / "folder.gguf").mkdir()
    (tmp_path / "zero.gguf").symlink_to("/dev/zero")
    (tmp_path / "nowhere.gguf").symlink_to(tmp_path / "nothing")
    for name in ("fifo.gguf", "folder.gguf", "zero.gguf", "nowhere.gguf", "missing.gguf"):
        with pytest.raises(CheckpointError):
            GGUF.open(tmp_path / name)
        with pytest.raises(CheckpointError):
            open_checkpoint(tmp_path / name)


def test_a_file_that_shrinks_under_the_reader_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(SOUND.file())
    checkpoint = GGUF.open(path)
    os.truncate(path, 100)
    with pytest.raises(CheckpointError, match="'b'"):
        checkpoint.read("b")
    checkpoint.close()
    with pytest.raises(CheckpointError, match="closed"):
        checkpoint.read("b")


def part(number: int, count: int, tensors: tuple[bytes, ...], *more: bytes) -> bytes:
    keys = (
        g.text_key("general.architecture", "toy"),
        g.key("split.no", g.UINT16, struct.pack("<H", number)),
        g.key("split.count", g.UINT16, struct.pack("<H", count)),
        *more,
    )
    return SOUND.but(keys=keys, tensors=tensors, data=bytes(32) * len(tensors)).file()


X, Y = (g.tensor("x", (8,), g.F32, 0),), (g.tensor("y", (8,), g.F32, 0),)
TOTAL = g.key("split.tensors.count", g.INT32, struct.pack("<i", 2))
FIRST, SECOND = "m-00001-of-00002.gguf", "m-00002-of-00002.gguf"


def test_parts_are_read_as_one(tmp_path: Path) -> None:
    (tmp_path / FIRST).write_bytes(part(0, 2, X, TOTAL))
    (tmp_path / SECOND).write_bytes(part(1, 2, Y))
    checkpoint = GGUF.open(tmp_path / FIRST)
    assert list(checkpoint.tensors) == ["x", "y"]
    assert checkpoint.weight_bytes == sum(path.stat().st_size for path in tmp_path.iterdir())
    assert checkpoint.read("y").shape == (8,)
    checkpoint.close()


@pytest.mark.parametrize(
    ("files", "opened", "words"),
    [
        ({FIRST: part(0, 2, X)}, FIRST, "does not exist"),
        ({FIRST: part(0, 2, X), SECOND: part(1, 2, Y)}, SECOND, "open the first"),
        ({FIRST: part(0, 2, X), SECOND: part(0, 2, Y)}, FIRST, "should be part 2 of 2"),
        ({FIRST: part(0, 2, X), SECOND: part(1, 3, Y)}, FIRST, "should be part 2 of 2"),
        ({FIRST: part(0, 2, X), SECOND: part(1, 2, X)}, FIRST, "earlier part"),
        ({FIRST: part(0, 2, (), TOTAL), SECOND: part(1, 2, Y)}, FIRST, "says that all parts hold 2"),
        ({FIRST: part(1, 2, X), SECOND: part(1, 2, Y)}, FIRST, "contradicts"),
        ({"m.gguf": part(0, 2, X)}, "m.gguf", "not named so"),
        ({FIRST: part(0, 60_000, X)}, FIRST, "not named so"),
        ({"m-00001-of-60000.gguf": part(0, 60_000, X)}, "m-00001-of-60000.gguf", "more than 4096"),
        ({FIRST: part(0, 2, X), SECOND: b"GGUF"}, FIRST, "cut short"),
    ],
)
def test_parts_that_do_not_belong_together_are_refused(
    files: dict[str, bytes], opened: str, words: str, tmp_path: Path
) -> None:
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(CheckpointError, match=words):
        GGUF.open(tmp_path / opened)


def test_the_official_reader_agrees_on_sound_files(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    path = tmp_path / "model.gguf"
    path.write_bytes(spm())
    ours, theirs = GGUF.open(path), gguf.GGUFReader(path)
    assert list(ours.tensors) == [tensor.name for tensor in theirs.tensors]
    for tensor in theirs.tensors:
        assert ours.read(tensor.name).ravel().tobytes() == tensor.data.tobytes()
    for key, value in ours.metadata.items():
        assert value.plain == theirs.fields[key].contents()
    ours.close()
    theirs.data._mmap.close()


def test_types_that_are_only_sized_can_be_listed_but_not_read(tmp_path: Path) -> None:
    tensors = (g.tensor("w", (256, 2), g.IQ2_XXS, 0),)
    path = tmp_path / "model.gguf"
    path.write_bytes(SOUND.but(tensors=tensors, data=bytes(132)).file())
    checkpoint = GGUF.open(path)
    assert (checkpoint.tensors["w"].dtype, checkpoint.tensors["w"].nbytes) == ("IQ2_XXS", 132)
    assert checkpoint.tensors["w"].format is None
    with pytest.raises(UnsupportedError, match="IQ2_XXS"):
        checkpoint.read("w")
    checkpoint.close()
