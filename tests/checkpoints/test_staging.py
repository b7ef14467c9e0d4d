"""Nothing stands under the final name until all of it is there, whatever happens before."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from halfpint.checkpoints.staging import Staging, check_apart, check_room, missing_bytes
from halfpint.errors import RoomError, UsageError

CRASH = """
import os, signal, sys
from pathlib import Path
from halfpint.checkpoints.staging import Staging
staging = Staging(Path(sys.argv[1]))
staging.begin(folder=sys.argv[2] == "folder")
inside = staging.path / "weights" if sys.argv[2] == "folder" else staging.path
inside.write_bytes(b"half of it")
os.kill(os.getpid(), signal.SIGKILL)
"""


def begun(target: Path, folder: bool, *, replace: bool = False, keep: bool = False) -> Staging:
    staging = Staging(target, replace=replace, keep=keep)
    staging.begin(folder=folder)
    return staging


def names(path: Path) -> list[str]:
    return sorted(child.name for child in path.iterdir())


def crash(target: Path, folder: bool) -> None:
    """Let another process die in the middle of writing."""
    arguments = [sys.executable, "-c", CRASH, str(target), "folder" if folder else "file"]
    assert subprocess.run(arguments, check=False).returncode == -signal.SIGKILL


def fill(staging: Staging, folder: bool, data: bytes) -> None:
    (staging.path / "weights" if folder else staging.path).write_bytes(data)


def content(path: Path, folder: bool) -> bytes:
    return (path / "weights" if folder else path).read_bytes()


@pytest.mark.parametrize("folder", [True, False], ids=["folder", "file"])
class TestBoth:
    def test_the_target_appears_at_the_end_and_nothing_else_stays(self, folder: bool, tmp_path: Path) -> None:
        staging = begun(tmp_path / "out", folder)
        fill(staging, folder, b"all")
        assert not (tmp_path / "out").exists()
        assert staging.publish() == tmp_path / "out"
        staging.abandon()
        assert content(tmp_path / "out", folder) == b"all"
        assert names(tmp_path) == ["out"]

    def test_abandoning_leaves_nothing(self, folder: bool, tmp_path: Path) -> None:
        staging = begun(tmp_path / "out", folder)
        fill(staging, folder, b"half")
        staging.abandon()
        staging.abandon()
        assert names(tmp_path) == []

    def test_a_killed_process_leaves_only_a_hidden_folder_and_the_next_one_removes_it(
        self, folder: bool, tmp_path: Path
    ) -> None:
        crash(tmp_path / "out", folder)
        assert names(tmp_path) == [".out.halfpint-job"]
        staging = begun(tmp_path / "out", folder)
        assert not any(staging.path.iterdir()) if folder else staging.path.stat().st_size == 0
        staging.abandon()
        assert names(tmp_path) == []

    def test_what_a_killed_process_left_can_be_kept_and_finished(self, folder: bool, tmp_path: Path) -> None:
        crash(tmp_path / "out", folder)
        staging = begun(tmp_path / "out", folder, keep=True)
        assert content(staging.path, folder) == b"half of it"
        staging.publish()
        assert content(tmp_path / "out", folder) == b"half of it"
        assert names(tmp_path) == ["out"]

    def test_leaving_lets_another_go_on(self, folder: bool, tmp_path: Path) -> None:
        first = begun(tmp_path / "out", folder)
        fill(first, folder, b"half")
        (first.folder / "journal").write_bytes(b"words")
        first.sync()
        first.leave()
        second = begun(tmp_path / "out", folder, keep=True)
        assert content(second.path, folder) == b"half"
        assert (second.folder / "journal").read_bytes() == b"words"
        second.publish()
        assert names(tmp_path) == ["out"]

    def test_without_an_output_there_is_nothing_to_keep(self, folder: bool, tmp_path: Path) -> None:
        first = Staging(tmp_path / "out")
        (first.folder / "journal").write_bytes(b"of an output that is gone")
        first.leave()
        second = begun(tmp_path / "out", folder, keep=True)
        assert not (second.folder / "journal").exists()
        second.abandon()

    def test_two_writers_of_one_name_do_not_meet(self, folder: bool, tmp_path: Path) -> None:
        first = begun(tmp_path / "out", folder)
        fill(first, folder, b"first")
        for keep in (False, True):
            with pytest.raises(UsageError, match="already being written"):
                Staging(tmp_path / "out", keep=keep)
        first.publish()
        assert content(tmp_path / "out", folder) == b"first"

    def test_two_processes_of_one_name_do_not_meet(self, folder: bool, tmp_path: Path) -> None:
        first = begun(tmp_path / "out", folder)
        arguments = [sys.executable, "-c", CRASH, str(tmp_path / "out"), "folder" if folder else "file"]
        outcome = subprocess.run(arguments, check=False, capture_output=True, text=True)
        assert outcome.returncode == 1
        assert "already being written by another process" in outcome.stderr
        first.abandon()

    def test_an_existing_output_is_kept_unless_it_may_be_replaced(self, folder: bool, tmp_path: Path) -> None:
        old = begun(tmp_path / "out", folder)
        fill(old, folder, b"old")
        old.publish()
        with pytest.raises(UsageError, match="exists already"):
            begun(tmp_path / "out", folder)
        new = begun(tmp_path / "out", folder, replace=True)
        fill(new, folder, b"new")
        assert content(tmp_path / "out", folder) == b"old"
        new.publish()
        assert content(tmp_path / "out", folder) == b"new"
        assert names(tmp_path) == ["out"]

    def test_an_output_that_appears_meanwhile_is_not_written_over(self, folder: bool, tmp_path: Path) -> None:
        staging = begun(tmp_path / "out", folder)
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
            begun(tmp_path / "out", folder, replace=True)

    def test_a_missing_parent_is_told(self, folder: bool, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="make it first"):
            begun(tmp_path / "no" / "out", folder)


def test_a_hidden_folder_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / ".out.halfpint-job").symlink_to("elsewhere")
    with pytest.raises(UsageError, match="not ours"):
        Staging(tmp_path / "out")
    assert names(tmp_path / "elsewhere") == []


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    staging = begun(tmp_path / "out", True)
    fill(staging, True, b"all")
    staging.publish()
    assert content(tmp_path / "out", True) == b"all"


def test_a_folder_never_takes_the_place_of_a_file_nor_a_file_that_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(UsageError, match="not a folder"):
        begun(tmp_path / "file", True, replace=True)
    with pytest.raises(UsageError, match="not a file"):
        begun(tmp_path / "folder", False, replace=True)


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


def test_what_the_disk_has_given_already_needs_no_room_again(tmp_path: Path) -> None:
    assert missing_bytes(tmp_path / "a", 1 << 20) == 1 << 20
    (tmp_path / "a").write_bytes(b"x" * (1 << 20))
    assert missing_bytes(tmp_path / "a", 1 << 20) == 0
    assert missing_bytes(tmp_path / "a", 3 << 20) <= 2 << 20
