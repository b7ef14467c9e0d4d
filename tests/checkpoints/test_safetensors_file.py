"""What is written reads back, by us and by the reference, whole and in rows."""

import errno
import resource
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from halfpint.checkpoints.safetensors_file import SafetensorsFile, SafetensorsLayout, SafetensorsWriter
from halfpint.checkpoints.safetensors_header import DTYPES
from halfpint.errors import CheckpointError, RoomError, UsageError

SHAPES = [(), (1,), (7,), (5, 3), (2, 3, 4), (0,), (4, 0), (0, 4)]


def filled(dtype: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Make an array of random bytes, of random booleans for BOOL."""
    kind = DTYPES[dtype]
    count = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
    raw = np.random.default_rng(seed).integers(0, 2 if dtype == "BOOL" else 256, count, dtype=np.uint8)
    return raw.view(kind).reshape(shape)


def write(path: Path, tensors: dict[str, tuple[str, np.ndarray]]) -> None:
    layout = SafetensorsLayout(
        {name: (dtype, array.shape) for name, (dtype, array) in tensors.items()}, {"format": "pt"}
    )
    writer = SafetensorsWriter(path, layout)
    for name, (_, array) in tensors.items():
        writer.write_rows(name, 0, array)
    writer.sync()
    writer.close()
    assert path.stat().st_size == layout.size


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_and_shape_reads_back(dtype: str, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    tensors = {f"t{i}": (dtype, filled(dtype, shape, i)) for i, shape in enumerate(SHAPES)}
    write(path, tensors)
    file = SafetensorsFile(path)
    assert file.metadata == {"format": "pt"}
    for name, (_, array) in tensors.items():
        values = file.read(name)
        assert values.dtype == array.dtype
        assert values.shape == array.shape
        assert values.tobytes() == array.tobytes()
    file.close()


def test_the_reference_reads_what_we_write_and_every_tensor_is_aligned(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    dtypes = [word for word in DTYPES if not word.startswith("F8")]
    write(path, {word: (word, filled(word, (3, 5))) for word in dtypes})
    reference = safetensors.numpy.load_file(path)
    for word in dtypes:
        assert reference[word].tobytes() == filled(word, (3, 5)).tobytes()
    file = SafetensorsFile(path)
    for entry in file.entries.values():
        assert entry.begin % DTYPES[entry.dtype].itemsize == 0
    assert (path.read_bytes()[:8]) == (int.from_bytes(path.read_bytes()[:8], "little")).to_bytes(8, "little")
    assert int.from_bytes(path.read_bytes()[:8], "little") % 8 == 0


def test_what_the_reference_writes_we_read(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    arrays = {
        "a": np.arange(12, dtype=np.float32).reshape(3, 4),
        "b": np.arange(5).astype(ml_dtypes.bfloat16),
        "empty": np.zeros((0, 3), np.float16),
        "scalar": np.array(7, np.int64),
        "ünïcödé \"'\\ name": np.ones((2, 2), np.uint8),
    }
    safetensors.numpy.save_file(arrays, path, metadata={"format": "np", "note": 'quote " backslash \\ newline \n é'})
    file = SafetensorsFile(path)
    assert file.metadata["note"] == 'quote " backslash \\ newline \n é'
    assert set(file.entries) == set(arrays)
    for name, array in arrays.items():
        assert np.array_equal(
            file.read(name).view(np.uint8 if array.shape else array.dtype),
            array.view(np.uint8 if array.shape else array.dtype),
        )
    file.close()


@settings(max_examples=60, deadline=None)
@given(rows=st.integers(0, 20), columns=st.integers(0, 9), cuts=st.tuples(st.integers(0, 20), st.integers(0, 20)))
def test_rows_are_those_of_the_whole(
    tmp_path_factory: pytest.TempPathFactory, rows: int, columns: int, cuts: tuple[int, int]
) -> None:
    path = tmp_path_factory.mktemp("rows") / "a.safetensors"
    array = filled("BF16", (rows, columns))
    write(path, {"before": ("U8", filled("U8", (3,))), "a": ("BF16", array)})
    start, end = sorted(min(cut, rows) for cut in cuts)
    file = SafetensorsFile(path)
    assert file.read("a", start, end).tobytes() == array[start:end].tobytes()
    assert file.read("a", start, end).shape == (end - start, columns)
    file.close()


@pytest.mark.parametrize(("start", "end"), [(-1, 2), (2, 1), (0, 6), (6, 6), (-2, None)])
def test_rows_outside_are_an_error(start: int, end: int | None, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write(path, {"a": ("F32", filled("F32", (5, 2)))})
    file = SafetensorsFile(path)
    with pytest.raises(UsageError, match="rows"):
        file.read("a", start, end)
    with pytest.raises(UsageError, match="no tensor"):
        file.read("b")
    file.close()


def test_rows_may_be_written_in_any_order(tmp_path: Path) -> None:
    array = filled("F16", (9, 4))
    layout = SafetensorsLayout({"a": ("F16", (9, 4)), "b": ("I64", (2,))}, {})
    writer = SafetensorsWriter(tmp_path / "a.safetensors", layout)
    for start in (6, 0, 3):
        writer.write_rows("a", start, array[start : start + 3])
    writer.write_rows("b", 0, np.array([1, 2]))
    writer.close()
    file = SafetensorsFile(tmp_path / "a.safetensors")
    assert file.read("a").tobytes() == array.tobytes()
    file.close()


@pytest.mark.parametrize(
    ("start", "values"),
    [(0, np.zeros((2, 4), np.float32)), (0, np.zeros((2, 3), np.float16)), (8, np.zeros((2, 4), np.float16))],
    ids=["dtype", "columns", "rows"],
)
def test_values_that_were_not_declared_are_an_error(start: int, values: np.ndarray, tmp_path: Path) -> None:
    writer = SafetensorsWriter(tmp_path / "a.safetensors", SafetensorsLayout({"a": ("F16", (9, 4))}, {}))
    with pytest.raises(UsageError):
        writer.write_rows("a", start, values)
    writer.close()


def test_an_output_that_the_disk_cannot_hold_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(RoomError, match="free some space"):
        SafetensorsWriter(tmp_path / "a.safetensors", SafetensorsLayout({"a": ("U8", (1, 2**60))}, {}))
    assert list(tmp_path.iterdir()) == []


def test_a_reservation_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
    try:
        with pytest.raises(RoomError, match="no room"):
            SafetensorsWriter(tmp_path / "a.safetensors", SafetensorsLayout({"a": ("U8", (1, 1 << 20))}, {}))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_exists_is_never_written_over(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"precious")
    with pytest.raises(FileExistsError) as caught:
        SafetensorsWriter(path, SafetensorsLayout({}, {}))
    assert caught.value.errno == errno.EEXIST
    assert path.read_bytes() == b"precious"


def test_a_writer_of_no_tensors_makes_a_sound_file(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write(path, {})
    assert SafetensorsFile(path).entries == {}
    with pytest.raises(CheckpointError):
        SafetensorsFile(tmp_path / "b.safetensors")
