"""GGUF files byte by byte, written without our writer: sound ones, and ones with one thing wrong."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace

UINT8, INT8, UINT16, INT16, UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY, UINT64, INT64, FLOAT64 = range(13)
F32, F16, Q4_0, Q8_0, IQ2_XXS, BF16 = 0, 1, 2, 8, 16, 30


def string(text: str | bytes) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(data)) + data


def key(name: str | bytes, kind: int, value: bytes) -> bytes:
    return string(name) + struct.pack("<I", kind) + value


def text_key(name: str, value: str) -> bytes:
    return key(name, STRING, string(value))


def uint32_key(name: str, value: int) -> bytes:
    return key(name, UINT32, struct.pack("<I", value))


def array_key(name: str, element: int, count: int, body: bytes) -> bytes:
    return key(name, ARRAY, struct.pack("<IQ", element, count) + body)


def strings_key(name: str, values: Sequence[str | bytes]) -> bytes:
    return array_key(name, STRING, len(values), b"".join(map(string, values)))


def tensor(name: str | bytes, dimensions: Sequence[int], type_id: int, offset: int) -> bytes:
    shape = struct.pack(f"<I{len(dimensions)}Q", len(dimensions), *dimensions)
    return string(name) + shape + struct.pack("<IQ", type_id, offset)


@dataclass(frozen=True)
class Gguf:
    """A file as its pieces; counts follow the pieces unless they are given."""

    magic: bytes = b"GGUF"
    version: int = 3
    keys: tuple[bytes, ...] = (text_key("general.architecture", "toy"),)
    tensors: tuple[bytes, ...] = (tensor("a", (4, 2), F32, 0), tensor("b", (3,), F32, 32))
    data: bytes = bytes(range(32)) + bytes(12)
    key_count: int | None = None
    tensor_count: int | None = None
    alignment: int = 32

    def file(self) -> bytes:
        tensor_count = len(self.tensors) if self.tensor_count is None else self.tensor_count
        key_count = len(self.keys) if self.key_count is None else self.key_count
        header = self.magic + struct.pack("<IQQ", self.version, tensor_count, key_count)
        header += b"".join(self.keys) + b"".join(self.tensors)
        return header.ljust(-(-len(header) // self.alignment) * self.alignment, b"\0") + self.data

    def but(self, **changes: object) -> "Gguf":
        return replace(self, **changes)

    def with_keys(self, *keys: bytes) -> "Gguf":
        return replace(self, keys=self.keys + keys)


SOUND = Gguf()
