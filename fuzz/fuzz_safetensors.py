"""Fuzz the safetensors reader: `python fuzz/fuzz_safetensors.py --seconds 600`.

Whatever is accepted must also be accepted by the reference implementation, with the same tensors and bytes.
"""

import json
import tempfile
from pathlib import Path

import harness
import mutation
import safetensors

from halfpint.checkpoints.safetensors_file import SafetensorsFile


class DisagreementError(Exception):
    """We accept what the reference refuses, or read other bytes."""


def seed(tensors: dict[str, object], data: int) -> bytes:
    """Make a file from its header."""
    header = json.dumps(tensors, separators=(",", ":")).encode()
    return len(header).to_bytes(8, "little") + header + bytes(range(data))


def tensor(dtype: str, shape: list[int], begin: int, end: int) -> dict[str, object]:
    """Describe one tensor."""
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


SEEDS = (
    seed({"a": tensor("F32", [2], 0, 8)}, 8),
    seed({"__metadata__": {"format": "pt", "\u00e9": "\n"}, "w": tensor("BF16", [2, 3], 0, 12)}, 12),
    seed({"b": tensor("U8", [3], 8, 11), "a": tensor("I64", [], 0, 8), "e": tensor("F16", [0, 4], 8, 8)}, 11),
    seed({}, 0),
)
DICTIONARY = (
    b'"a":', b'"dtype":', b'"shape":', b'"data_offsets":', b'"__metadata__":', b"F32", b"F8_E4M3", b"F4", b"[",
    b"]", b"{", b"}", b"[]", b"{}", b",", b":", b'"', b"\\", b"\\u0061", b"\\ud800", b"null", b"true", b"NaN",
    b"-1", b"1e400", b"1.0", b" ", b"\n", b"\0", b"\xff", b"\xef\xbb\xbf",
    b'"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},',
)  # fmt: skip


def target(data: bytes) -> None:
    """Read all of it, twice, and compare with the reference."""
    PATH.write_bytes(data)
    file = SafetensorsFile(PATH)
    try:
        try:
            reference = dict(safetensors.deserialize(data))
        except Exception as error:
            raise DisagreementError(f"accepted, but the reference says: {error}") from error
        if set(reference) != set(file.entries):
            raise DisagreementError(f"tensors {sorted(file.entries)}, the reference has {sorted(reference)}")
        for name, entry in file.entries.items():
            rows = entry.shape[0] if entry.shape else 1
            whole = file.read(name).tobytes()
            halves = [file.read(name, 0, rows // 2), file.read(name, rows // 2)] if entry.shape else [file.read(name)]
            if whole != bytes(reference[name]["data"]) or whole != b"".join(half.tobytes() for half in halves):
                raise DisagreementError(f"other bytes in {name!r}")
    finally:
        file.close()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        PATH = Path(folder) / "model.safetensors"
        harness.main(target, mutation.maker(SEEDS, DICTIONARY))
