"""Safetensors files that nobody should believe: name -> (bytes of the file, words that the error must hold)."""

import json
from collections.abc import Callable, Mapping


def file_bytes(header: bytes, data: bytes = b"", length: int | None = None) -> bytes:
    """Put a file together; `length` lies about the header's."""
    return (len(header) if length is None else length).to_bytes(8, "little") + header + data


def one(entry: str, data: bytes = bytes(8)) -> bytes:
    """Make a file of one tensor `a` with this JSON."""
    return file_bytes(b'{"a":' + entry.encode("utf-8", "surrogatepass") + b"}", data)


def tensor(dtype: str = "F32", shape: object = (2,), offsets: object = (0, 8)) -> str:
    """Make the JSON of one tensor."""
    return json.dumps({"dtype": dtype, "shape": shape, "data_offsets": offsets}, separators=(",", ":"))


def many(*entries: tuple[str, str], data: int) -> bytes:
    """Make a file of several tensors."""
    text = ",".join(f"{json.dumps(name)}:{entry}" for name, entry in entries)
    return file_bytes(f"{{{text}}}".encode(), bytes(data))


SOUND = many(("a", tensor()), ("b", tensor("F16", [3, 2], [8, 20])), ("c", tensor("I64", [], [20, 28])), data=28)

A = tensor()


def _million_keys() -> bytes:
    entry = '"%d":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'
    return file_bytes(("{" + ",".join(entry % i for i in range(1_000_000)) + "}").encode())


def _million_pairs() -> bytes:
    return file_bytes(b'{"__metadata__":{' + b",".join(b'"%d":""' % i for i in range(1_000_000)) + b"}}")


LENGTHS: Mapping[str, tuple[bytes, str]] = {
    "empty file": (b"", "too few"),
    "7 bytes": (bytes(7), "too few"),
    "8 bytes": (bytes(8), "too few"),
    "9 bytes": (bytes(9), "too few"),
    "header of 0 bytes": (file_bytes(b"", bytes(20)), "does not begin with"),
    "header of 1 byte": (file_bytes(b"{", bytes(20)), "expected"),
    **{
        f"header of {length} bytes": (file_bytes(b"{}", bytes(8), length), words)
        for length, words in (
            (2**31, "no safetensors file"),
            (2**32, "no safetensors file"),
            (2**63 - 1, "no safetensors file"),
            (2**63, "no safetensors file"),
            (2**64 - 1, "no safetensors file"),
            (100_000_001, "no safetensors file"),
            (100_000_000, "cut short"),
            (18, "cut short"),
            (11, "cut short"),
        )
    },
}

TEXTS: Mapping[str, tuple[bytes, str]] = {
    "not UTF-8": (file_bytes(b'{"\xff\xfe":' + A.encode() + b"}", bytes(8)), "UTF-8"),
    "byte order mark": (file_bytes(b"\xef\xbb\xbf{}"), "does not begin"),
    "NUL before the header": (file_bytes(b"\0{}"), "does not begin"),
    "NUL in the name": (file_bytes(b'{"a\0b":' + A.encode() + b"}", bytes(8)), "expected"),
    "escaped NUL in the name": (file_bytes(b'{"a\\u0000b":' + A.encode() + b"}", bytes(8)), "control"),
    "space before the header": (file_bytes(b" {}"), "does not begin"),
    "garbage after the header": (file_bytes(b"{}x"), "follows"),
    "NUL padding": (file_bytes(b"{}\0\0"), "follows"),
    "two objects": (file_bytes(b"{}{}"), "follows"),
    "a list": (file_bytes(b"[1,2,3,4]"), "does not begin"),
    "a number": (file_bytes(b"12345678"), "does not begin"),
    "no closing brace": (file_bytes(b'{"a":' + A.encode(), bytes(8)), "expected ','"),
    "comma at the end": (file_bytes(b'{"a":' + A.encode() + b",}", bytes(8)), "name of a tensor"),
    "comma at the start": (file_bytes(b'{,"a":' + A.encode() + b"}", bytes(8)), "name of a tensor"),
    "no comma": (file_bytes(b'{"a":' + A.encode() + b'"b":' + A.encode() + b"}", bytes(8)), "expected ','"),
    "single quotes": (file_bytes(b"{'a':" + A.encode() + b"}", bytes(8)), "name of a tensor"),
    "name without end": (file_bytes(b'{"' + b"a" * 10_000_000), "name of a tensor"),
    "name of 501 bytes": (many(("a" * 501, A), data=8), "bytes"),
    "empty name": (many(("", A), data=8), "bytes"),
    "half a surrogate pair": (file_bytes(b'{"\\ud800":' + A.encode() + b"}", bytes(8)), "UTF-8"),
    "raw half of a surrogate pair": (file_bytes(b'{"\xed\xa0\x80":' + A.encode() + b"}", bytes(8)), "UTF-8"),
    "bad escape": (file_bytes(b'{"\\x41":' + A.encode() + b"}", bytes(8)), "name of a tensor"),
    "short escape": (file_bytes(b'{"\\u41":' + A.encode() + b"}", bytes(8)), "escape"),
    "ten million braces": (file_bytes(b"{" * 10_000_000), "name of a tensor"),
    "ten million brackets": (one("[" * 10_000_000), "expected '{'"),
    "nested objects in metadata": (file_bytes(b'{"__metadata__":' + b'{"a":' * 1_000_000), "strings"),
}

FIELDS: Mapping[str, tuple[bytes, str]] = {
    "tensor is null": (one("null"), "expected '{'"),
    "tensor is a string": (one('"F32"'), "expected '{'"),
    "tensor is empty": (one("{}"), "dtype is missing"),
    "no dtype": (one('{"shape":[2],"data_offsets":[0,8]}'), "dtype is missing"),
    "no shape": (one('{"dtype":"F32","data_offsets":[0,8]}'), "shape is missing"),
    "no offsets": (one('{"dtype":"F32","shape":[2]}'), "data_offsets is missing"),
    "dtype twice": (one('{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}'), "dtype appears twice"),
    "shape twice": (one('{"dtype":"F32","shape":[2],"shape":[2],"data_offsets":[0,8]}'), "shape appears twice"),
    "offsets twice instead of shape": (
        one('{"dtype":"F32","data_offsets":[0,8],"data_offsets":[0,8]}'),
        "data_offsets appears twice",
    ),
    "extra field": (one('{"dtype":"F32","shape":[2],"data_offsets":[0,8],"x":1}'), "expected"),
    "escaped field": (one('{"dt\\u0079pe":"F32","shape":[2],"data_offsets":[0,8]}'), "expected"),
    "field in capitals": (one('{"DTYPE":"F32","shape":[2],"data_offsets":[0,8]}'), "expected"),
    "tensor twice": (file_bytes(f'{{"a":{A},"a":{A}}}'.encode(), bytes(8)), "appears twice"),
    "tensor twice, once escaped": (file_bytes(f'{{"a":{A},"\\u0061":{A}}}'.encode(), bytes(8)), "appears twice"),
    "unknown dtype": (one(tensor("F31")), "unknown dtype"),
    "unknown dtype with sizes that fit nothing": (one(tensor("X", [10**9], [0, 8])), "unknown dtype"),
    "dtype in small letters": (one(tensor("f32")), "unknown dtype"),
    "dtype in mixed case": (one(tensor("Bf16", [4])), "unknown dtype"),
    "empty dtype": (one(tensor("")), "expected"),
    "dtype is a number": (one('{"dtype":32,"shape":[2],"data_offsets":[0,8]}'), "expected"),
    "F4": (one(tensor("F4", [16])), "not read yet"),
    "F6": (one(tensor("F6_E2M3", [8], [0, 6]), bytes(6)), "not read yet"),
    "E8M0": (one(tensor("F8_E8M0", [8])), "not read yet"),
    "metadata is a list": (file_bytes(b'{"__metadata__":[]}'), "expected '{'"),
    "metadata is null": (file_bytes(b'{"__metadata__":null}'), "expected '{'"),
    "metadata holds a number": (file_bytes(b'{"__metadata__":{"a":1}}'), "strings"),
    "metadata holds an object": (file_bytes(b'{"__metadata__":{"a":{}}}'), "strings"),
    "metadata holds a key twice": (file_bytes(b'{"__metadata__":{"a":"","\\u0061":""}}'), "twice"),
    "metadata twice": (file_bytes(b'{"__metadata__":{},"__metadata__":{}}'), "twice"),
    "metadata is a tensor": (file_bytes(b'{"__metadata__":' + A.encode() + b"}", bytes(8)), "strings"),
    "metadata of 20 MB": (file_bytes(b'{"__metadata__":{"a":"' + b"x" * 20_000_000 + b'"}}'), "16000000"),
}

NUMBERS: Mapping[str, tuple[bytes, str]] = {
    f"{word[:20]} in the shape": (one(f'{{"dtype":"F32","shape":[{word}],"data_offsets":[0,8]}}'), "")
    for word in (
        "-2", "-0", "2.0", "2e0", "1e400", "true", "null", '"2"', "[2]", "{}", "NaN", "Infinity", "-Infinity",
        "0x2", "02", "002", "+2", "2,", ",2", "9" * 21, "9" * 1_000_000, "1" + "0" * 25, "２",
    )
}  # fmt: skip

OFFSETS: Mapping[str, tuple[bytes, str]] = {
    "begin after end": (one(tensor(offsets=[8, 0])), "data_offsets"),
    "end after the file": (one(tensor(shape=[4], offsets=[0, 16])), "cut short"),
    "end far after the file": (one(tensor("U8", [2**62], [0, 2**62])), "cut short"),
    "one offset": (one(tensor(offsets=[0])), "1 numbers"),
    "three offsets": (one(tensor(offsets=[0, 4, 8])), "3 numbers"),
    "no offsets in the list": (one(tensor(offsets=[])), "0 numbers"),
    "negative offset": (one(tensor(offsets=[-8, 0])), "expected"),
    "offset of 2^64": (one(tensor(offsets=[2**64 - 8, 2**64])), ""),
    "fewer bytes than the shape": (one(tensor(shape=[1024, 1024], offsets=[0, 4]), bytes(4)), "4194304 bytes"),
    "more bytes than the shape": (one(tensor(shape=[1])), "4 bytes"),
    "not starting at 0": (one(tensor(offsets=[4, 12]), bytes(12)), "gap"),
    "not ending at the end": (one(A, bytes(9)), "more than its header says"),
    "gap": (many(("a", A), ("b", tensor(offsets=[9, 17])), data=17), "gap"),
    "overlap": (many(("a", A), ("b", tensor(offsets=[4, 12])), data=12), "overlaps"),
    "overlap of all": (many(("a", A), ("b", tensor("U8", [4], [2, 6])), data=8), "overlaps"),
    "the same bytes twice": (many(("a", A), ("b", A), data=8), "overlaps"),
    "no tensor, but data": (file_bytes(b"{}", bytes(8)), "more than its header says"),
    "empty tensor beyond the end": (many(("a", A), ("b", tensor(shape=[0], offsets=[99, 99])), data=8), "gap"),
    "empty tensor within another": (many(("a", A), ("b", tensor(shape=[0], offsets=[4, 4])), data=8), "overlaps"),
    "product of 2^64": (one(tensor(shape=[2**32, 2**32], offsets=[0, 0]), b""), "too large"),
    "product that wraps to 8": (one(tensor("U8", [2**61 + 1, 8])), "too large"),
    "product of 2^63": (one(tensor("U8", [2**31, 2**32], [0, 0]), b""), "too large"),
    "dimension of 2^42+1": (one(tensor("F32", [2**42 + 1, 2**20], [0, 2**22]), bytes(2**22)), "too large"),
    "overflow hidden by a zero": (one(tensor(shape=[2**63, 2**63, 0], offsets=[0, 0]), b""), "too large"),
    "33 axes": (one(tensor(shape=[1] * 33, offsets=[0, 4]), bytes(4)), "at most 32"),
    "a hundred thousand axes": (one(tensor(shape=[1] * 100_000, offsets=[0, 4]), bytes(4)), "at most 32"),
}

HUGE: Mapping[str, tuple[Callable[[], bytes], str]] = {
    "a hundred million braces": (lambda: file_bytes(b"{" * 100_000_000), "name of a tensor"),
    "a hundred million spaces": (lambda: file_bytes(b"{" + b" " * 99_999_998 + b"x"), "name of a tensor"),
    "a hundred million quotes": (lambda: file_bytes(b'{"__metadata__":{"' + b'\\"' * 49_999_000), "16000000"),
    "a million keys": (_million_keys, "more than 100000 tensors"),
    "metadata of a million pairs": (_million_pairs, "10000 pairs"),
}
"""Made when they are needed."""

CASES: Mapping[str, tuple[bytes, str]] = {**LENGTHS, **TEXTS, **FIELDS, **NUMBERS, **OFFSETS}
