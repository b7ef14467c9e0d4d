"""Nothing stands under the final name until all of it is there, whatever happens before."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from halfpint.checkpoints.staging import Staging, check_apart, check_room
from halfpint.errors import RoomError, UsageError

CRASH = """
import os, signal, sys
from pathlib import Path
from halfpint.checkpoints.staging import Staging
staging = Staging(Path(sys.argv[1]), folder=sys.argv[2] == "folder")
inside = staging.path / "weights" if sys.argv[2] == "folder" else staging.path
inside.write_bytes(b"half of it")
os.kill(os.getpid(), signal.SIGKILL)
"""


def names(path: Path) -> list[str]:
    return sorted(child.name for child in path.iterdir())


def fill(staging: Staging, folder: bool, data: bytes) -> None:
    (staging.path / "weights" if folder else staging.path).write_bytes(data)


def content(path: Path, folder: bool) -> bytes:
    return (path / "weights" if folder else path).read_bytes()


@pytest.mark.parametrize("folder", [True, False], ids=["folder", "file"])
class TestBoth:
    def test_the_target_appears_at_the_end_and_nothing_else_stays(self, folder: bool, tmp_path: Path) -> None:
        staging = Staging(tmp_path / "out", folder=folder)
        fill(staging, folder, b"all")
        assert not (tmp_path / "out").exists()
        assert staging.publish() == tmp_path / "out"
        staging.abandon()
        assert content(tmp_path / "out", folder) == b"all"
        assert names(tmp_path) == ["out"]

    def test_abandoning_leaves_nothing(self, folder: bool, tmp_path: Path) -> None:
        staging = Staging(tmp_path / "out", folder=folder)
        fill(staging, folder, b"half")
        staging.abandon()
        staging.abandon()
        assert names(tmp_path) == []

    def test_a_killed_process_leaves_only_a_partial_and_the_next_one_removes_it(
        self, folder: bool, tmp_path: Path
    ) -> None:
        arguments = [sys.executable, "-c", CRASH, str(tmp_path / "out"), "folder" if folder else "file"]
        assert subprocess.run(arguments, check=False).returncode == -signal.SIGKILL
        (left,) = names(tmp_path)
        assert left.startswith(".out.partial-")
        staging = Staging(tmp_path / "out", folder=folder)
        assert names(tmp_path) == [staging.path.name]
        staging.abandon()

    def test_two_writers_of_one_name_do_not_meet(self, folder: bool, tmp_path: Path) -> None:
        first = Staging(tmp_path / "out", folder=folder)
        with pytest.raises(UsageError, match="already being written"):
            Staging(tmp_path / "out", folder=folder)
        assert first.path.exists()
        first.abandon()

    def test_a_partial_that_another_process_holds_is_left_alone(self, folder: bool, tmp_path: Path) -> None:
        first = Staging(tmp_path / "out", folder=folder)
        other = tmp_path / ".out.partial-999999999"
        first.path.rename(other)
        second = Staging(tmp_path / "out", folder=folder)
        assert other.exists()
        second.abandon()
        first.path.touch()
        first.abandon()

    def test_an_existing_output_is_kept_unless_it_may_be_replaced(self, folder: bool, tmp_path: Path) -> None:
        old = Staging(tmp_path / "out", folder=folder)
        fill(old, folder, b"old")
        old.publish()
        with pytest.raises(UsageError, match="exists already"):
            Staging(tmp_path / "out", folder=folder)
        new = Staging(tmp_path / "out", folder=folder, replace=True)
        fill(new, folder, b"new")
        assert content(tmp_path / "out", folder) == b"old"
        new.publish()
        assert content(tmp_path / "out", folder) == b"new"
        assert names(tmp_path) == ["out"]

    def test_an_output_that_appears_meanwhile_is_not_written_over(self, folder: bool, tmp_path: Path) -> None:
        staging = Staging(tmp_path / "out", folder=folder)
        fill(staging, folder, b"new")
        if folder:
            (tmp_path / "out").mkdir()
        (tmp_path / "out" / "weights" if folder else tmp_path / "out").write_bytes(b"theirs")
        with pytest.raises(UsageError, match="exists already"):
            staging.publish()
        staging.abandon()
        assert content(tmp_path / "out", folder) == b"theirs"

    def test_a_link_is_never_followed_by_the_output(self, folder: bool, tmp_path: Path) -> None:
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "out").symlink_to("elsewhere")
        with pytest.raises(UsageError, match="give another output name"):
            Staging(tmp_path / "out", folder=folder, replace=True)

    def test_a_missing_parent_is_told(self, folder: bool, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="make it first"):
            Staging(tmp_path / "no" / "out", folder=folder)


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    staging = Staging(tmp_path / "out", folder=True)
    fill(staging, True, b"all")
    staging.publish()
    assert content(tmp_path / "out", True) == b"all"


def test_a_folder_never_takes_the_place_of_a_file_nor_a_file_that_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(UsageError, match="not a folder"):
        Staging(tmp_path / "file", folder=True, replace=True)
    with pytest.raises(UsageError, match="not a file"):
        Staging(tmp_path / "folder", folder=False, replace=True)


@pytest.mark.parametrize("target", ["model", "model/inside", "", "link", "model/../model"])
def test_an_output_in_or_over_its_source_is_refused(target: str, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "link").symlink_to("model")
    with pytest.raises(UsageError, match="source"):
        check_apart(tmp_path / target, tmp_path / "model")


def test_an_output_beside_its_source_is_fine(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    check_apart(tmp_path / "model-small", tmp_path / "model")


def test_room_is_checked(tmp_path: Path) -> None:
    check_room(tmp_path, 0)
    with pytest.raises(RoomError, match="free"):
        check_room(tmp_path, 2**62)
