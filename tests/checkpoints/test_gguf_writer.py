"""Room is asked for before anything is written, and a failure leaves none of it taken."""

import os
import resource
from pathlib import Path

import pytest

from gguf_bytes import SOUND
from halfpint.checkpoints.checkpoint import OutputTensor
from halfpint.checkpoints.gguf import GGUF
from halfpint.errors import RoomError


def create(folder: Path, shape: tuple[int, int]) -> None:
    """Begin a file with one float32 tensor."""
    (folder / "source.gguf").write_bytes(SOUND.file())
    source = GGUF.open(folder / "source.gguf")
    try:
        GGUF.create(folder / "out.gguf", source, [OutputTensor("a", shape, None, "F32")])
    finally:
        source.close()


def test_an_output_that_the_disk_cannot_hold_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    free = os.statvfs(tmp_path)
    with pytest.raises(RoomError, match="the output needs"):
        create(tmp_path, (2 * free.f_bavail * free.f_frsize // 4096, 1024))
    assert [path.name for path in tmp_path.iterdir()] == ["source.gguf"]


def test_a_reservation_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
    try:
        with pytest.raises(RoomError, match=r"no room for .*out\.gguf"):
            create(tmp_path, (1024, 1024))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == ["source.gguf"]
