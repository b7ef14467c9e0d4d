"""GGUF files with one thing wrong, each with the words that its error must have."""

import struct
from collections.abc import Mapping

import gguf_bytes as g
from gguf_bytes import SOUND, Gguf

_U64 = 0xFFFF_FFFF_FFFF_FFFF
_HUGE = (1 << 63, 1 << 62, (1 << 61) + 1, _U64, 1 << 40)

_TOKENS = ("<unk>", "<s>", "</s>", "▁", "a", "b", "ab")
_SCORES = g.array_key("tokenizer.ggml.scores", g.FLOAT32, 7, struct.pack("<7f", *range(7)))
_TYPES = g.array_key("tokenizer.ggml.token_type", g.INT32, 7, struct.pack("<7i", 2, 3, 3, 1, 1, 1, 1))


def spm(
    tokens: tuple[str | bytes, ...] = _TOKENS, scores: bytes = _SCORES, types: bytes = _TYPES, *more: bytes
) -> bytes:
    """A file with a SentencePiece vocabulary."""
    model = g.text_key("tokenizer.ggml.model", "llama")
    return SOUND.with_keys(model, g.strings_key("tokenizer.ggml.tokens", tokens), scores, types, *more).file()


def typed(*types: int) -> bytes:
    return g.array_key("tokenizer.ggml.token_type", g.INT32, len(types), struct.pack(f"<{len(types)}i", *types))


def byte_level(pre: str = "gpt-2", merges: tuple[str | bytes, ...] = ("a b",), *more: bytes) -> bytes:
    """A file with a byte-level vocabulary."""
    keys = (
        g.text_key("tokenizer.ggml.model", "gpt2"),
        g.text_key("tokenizer.ggml.pre", pre),
        g.strings_key("tokenizer.ggml.tokens", _TOKENS),
        g.strings_key("tokenizer.ggml.merges", merges),
    )
    return SOUND.with_keys(*keys, *more).file()


def one_tensor(dimensions: tuple[int, ...], type_id: int = g.F32, offset: int = 0, data: bytes = bytes(64)) -> bytes:
    return SOUND.but(tensors=(g.tensor("w", dimensions, type_id, offset),), data=data).file()


def two_tensors(first: tuple[str | bytes, int], second: tuple[str | bytes, int], data: int = 64) -> bytes:
    """Two vectors of 8 floats at the given offsets."""
    tensors = tuple(g.tensor(name, (8,), g.F32, offset) for name, offset in (first, second))
    return SOUND.but(tensors=tensors, data=bytes(data)).file()


def aligned(value: int, kind: int = g.UINT32, width: str = "<I") -> bytes:
    return SOUND.with_keys(g.key("general.alignment", kind, struct.pack(width, value))).file()


def known_key(name: str, kind: int, value: bytes) -> bytes:
    return SOUND.with_keys(g.key(name, kind, value)).file()


def llama(**changes: int) -> bytes:
    """A header that claims to be a Llama of impossible sizes, with one small tensor."""
    sizes = {
        "context_length": 16,
        "embedding_length": 4,
        "block_count": 1,
        "feed_forward_length": 4,
        "attention.head_count": 1,
        **changes,
    }
    keys = [g.text_key("general.architecture", "llama")]
    keys += [g.uint32_key(f"llama.{name}", size) for name, size in sizes.items()]
    keys.append(g.key("llama.attention.layer_norm_rms_epsilon", g.FLOAT32, struct.pack("<f", 1e-5)))
    return Gguf(keys=tuple(keys), tensors=(g.tensor("token_embd.weight", (4, 2), g.F32, 0),), data=bytes(32)).file()


PREAMBLE: Mapping[str, tuple[bytes, str]] = {
    "empty": (b"", "cut short"),
    "7 bytes": (b"GGUF\3\0\0", "cut short"),
    "8 bytes": (b"GGUF\3\0\0\0", "cut short"),
    "9 bytes": (b"GGUF\3\0\0\0\0", "cut short"),
    "another magic": (SOUND.but(magic=b"GGML").file(), "no GGUF file"),
    "swapped magic": (SOUND.but(magic=b"FUGG").file(), "byte order"),
    "big endian": (SOUND.but(version=3 << 24).file(), "big endian"),
    **{f"version {v}": (SOUND.but(version=v).file(), "version") for v in (0, 1, 4, 0xFFFF_FFFF)},
    **{f"{n} tensors": (SOUND.but(tensor_count=n).file(), "number of tensors") for n in _HUGE},
    **{f"{n} keys": (SOUND.but(key_count=n).file(), "number of metadata keys") for n in _HUGE},
    "one key more than there are": (SOUND.but(key_count=2).file(), ""),
    "one tensor more than there are": (SOUND.but(tensor_count=3).file(), ""),
}

METADATA: Mapping[str, tuple[bytes, str]] = {
    **{
        f"string of {n}": (SOUND.with_keys(g.key("k", g.STRING, struct.pack("<Q", n))).file(), "bytes long")
        for n in _HUGE
    },
    **{
        f"array of {n} of type {kind}": (SOUND.with_keys(g.array_key("k", kind, n, bytes(16))).file(), "length of")
        for n in _HUGE
        for kind in (g.UINT8, g.FLOAT64, g.STRING, g.BOOL)
    },
    "43 bytes that hang the official reader": (
        b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + g.string("k") + struct.pack("<IIH", g.ARRAY, g.STRING, 0),
        "",
    ),
    "array of arrays": (SOUND.with_keys(g.array_key("k", g.ARRAY, 1, bytes(16))).file(), "array of arrays"),
    "type 13": (SOUND.with_keys(g.key("k", 13, bytes(8))).file(), "type 13"),
    "element type 99": (SOUND.with_keys(g.array_key("k", 99, 1, bytes(8))).file(), "type 99"),
    "bool of 2": (SOUND.with_keys(g.key("k", g.BOOL, b"\2")).file(), "bool of 2"),
    "array with a bool of 7": (SOUND.with_keys(g.array_key("k", g.BOOL, 2, b"\1\7")).file(), "bool of 7"),
    "key twice": (SOUND.with_keys(g.uint32_key("k", 1), g.uint32_key("k", 1)).file(), "appears twice"),
    "empty key": (SOUND.with_keys(g.uint32_key("", 1)).file(), "empty"),
    "key with NUL": (SOUND.with_keys(g.uint32_key("a\0b", 1)).file(), "NUL"),
    "key not UTF-8": (SOUND.with_keys(g.key(b"\xff\xfe", g.UINT32, bytes(4))).file(), "UTF-8"),
    "key of a million bytes": (SOUND.with_keys(g.uint32_key("k" * 10**6, 1)).file(), "bytes long"),
    "text not UTF-8": (SOUND.with_keys(g.key("k", g.STRING, g.string(b"\x80"))).file(), "UTF-8"),
    "element not UTF-8": (spm((*_TOKENS[:-1], b"\xc3\x28")), "UTF-8"),
}

_ALIGNMENT = (0, 1, 2, 3, 4, 7, 24, 33, 1 << 21, 1 << 31, (1 << 32) - 1)

KNOWN_KEYS: Mapping[str, tuple[bytes, str]] = {
    **{f"alignment {n}": (aligned(n), "general.alignment") for n in _ALIGNMENT},
    "alignment as int32": (aligned(32, g.INT32), "must be a uint32, but is of type int32"),
    "alignment as uint64": (aligned(32, g.UINT64, "<Q"), "must be a uint32, but is of type uint64"),
    "alignment as text": (known_key("general.alignment", g.STRING, g.string("32")), "must be a uint32"),
    "architecture as number": (
        Gguf(keys=(g.uint32_key("general.architecture", 1),)).file(),
        "'general.architecture' must be a string, but is of type uint32",
    ),
    "scores of uint8": (
        spm(scores=g.array_key("tokenizer.ggml.scores", g.UINT8, 7, bytes(7))),
        "'tokenizer.ggml.scores' must be an array of float32, but is of type array of uint8",
    ),
    "tokens of int32": (
        known_key("tokenizer.ggml.tokens", g.ARRAY, struct.pack("<IQi", g.INT32, 1, 0)),
        "must be an array of strings",
    ),
    "types of float": (
        known_key("tokenizer.ggml.token_type", g.ARRAY, struct.pack("<IQf", g.FLOAT32, 1, 0)),
        "must be an array of integers",
    ),
    "merges as text": (known_key("tokenizer.ggml.merges", g.STRING, g.string("a b")), "must be an array of strings"),
    "bos as float": (known_key("tokenizer.ggml.bos_token_id", g.FLOAT32, bytes(4)), "must be an integer"),
    "bos as bool": (known_key("tokenizer.ggml.bos_token_id", g.BOOL, b"\0"), "must be an integer"),
    "add_bos as number": (known_key("tokenizer.ggml.add_bos_token", g.UINT32, bytes(4)), "must be a bool"),
    "template as array": (
        known_key("tokenizer.chat_template", g.ARRAY, struct.pack("<IQ", g.STRING, 0)),
        "must be a string",
    ),
    "blocks as text": (known_key("toy.block_count", g.STRING, g.string("2")), "must be an integer"),
    "epsilon as integer": (known_key("toy.attention.layer_norm_rms_epsilon", g.UINT32, bytes(4)), "must be a float"),
    "split count as text": (known_key("split.count", g.STRING, g.string("2")), "must be an integer"),
    "file type as float": (known_key("general.file_type", g.FLOAT32, bytes(4)), "must be an integer"),
    "a thousand million blocks": (llama(block_count=10**9), ""),
    "more blocks than tensors": (llama(block_count=1000), "block_count"),
    "a million experts": (llama(block_count=1, expert_count=10**6, expert_used_count=1), ""),
    "no heads": (llama(**{"attention.head_count": 0}), ""),
    "a vocabulary that is not there": (llama(embedding_length=64), "shape"),
}

TENSORS: Mapping[str, tuple[bytes, str]] = {
    **{f"{n} dimensions": (one_tensor((1,) * n), "dimensions") for n in (0, 5)},
    "4294967295 dimensions": (
        SOUND.but(tensors=(g.string("w") + struct.pack("<I", 0xFFFF_FFFF) + bytes(64),)).file(),
        "dimensions",
    ),
    "elements wrap 2^64": (one_tensor((1 << 32, 1 << 32)), "hostile"),
    "elements wrap 2^63": (one_tensor((1 << 62, 2)), "hostile"),
    "elements wrap to few": (one_tensor(((1 << 42) + 1, 1 << 22)), "hostile"),
    "a dimension of 2^63": (one_tensor((1 << 63, 0)), "hostile"),
    "bytes wrap 2^64": (one_tensor((1 << 62,)), "cut short"),
    "one element too many": (one_tensor((17,)), "cut short"),
    **{f"type {n}": (one_tensor((32,), n), "unknown") for n in (4, 5, 9, 15, 31, 33, 36, 38, 42, 1000, 0xFFFF_FFFF)},
    "half a block": (one_tensor((48,), g.Q4_0), "do not divide"),
    **{f"offset {n}": (one_tensor((8,), offset=n), "multiple of 32") for n in (1, 16, 31, _U64)},
    "offset past the file": (one_tensor((8,), offset=1 << 40), "only padding"),
    "offset wraps": (one_tensor((8,), offset=(1 << 64) - 32), "only padding"),
    "overlap": (two_tensors(("x", 0), ("y", 0)), "inside tensor 'x'"),
    "gap": (two_tensors(("x", 0), ("y", 96), 128), "only padding"),
    "first tensor not first": (two_tensors(("x", 64), ("y", 96), 128), "only padding"),
    "name twice": (two_tensors(("x", 0), ("x", 32)), "appears twice"),
    "trailing bytes": (SOUND.but(data=SOUND.data + bytes(100)).file(), "follow the last tensor"),
    "no data": (SOUND.but(data=b"").file(), "cut short"),
    "empty name": (two_tensors(("", 0), ("y", 32)), "empty"),
    **{f"name of {n} bytes": (two_tensors(("n" * n, 0), ("y", 32)), "bytes long") for n in (65, 10**6)},
    "name with NUL": (two_tensors(("a\0", 0), ("y", 32)), "NUL"),
    "name not UTF-8": (two_tensors((b"\xff", 0), ("y", 32)), "UTF-8"),
}

VOCABULARY: Mapping[str, tuple[bytes, str]] = {
    **{
        f"byte token {token}": (spm((*_TOKENS[:-1], token), types=typed(2, 3, 3, 1, 1, 1, 6)), "not <0xNN>")
        for token in ("<0x-1>", "<0xZZ>", "<0x", "<0x0A", "0x0A", "<0x100>", "<0xff>")
    },
    "token of 100,000 characters": (spm((*_TOKENS[:-1], "a" * 100_000)), "longer than"),
    "no tokens": (spm(()), "missing or empty"),
    "fewer types than tokens": (spm(types=typed(2, 3)), "2 entries for 7 tokens"),
    "types out of range": (spm(types=typed(2, 3, 3, 1, 1, 1, 77)), "0 to 6"),
    "negative type": (spm(types=typed(2, 3, 3, 1, 1, 1, -1)), "0 to 6"),
    "fewer scores than tokens": (
        spm(scores=g.array_key("tokenizer.ggml.scores", g.FLOAT32, 2, bytes(8))),
        "2 entries for 7 tokens",
    ),
    "score NaN": (
        spm(scores=g.array_key("tokenizer.ggml.scores", g.FLOAT32, 7, struct.pack("<7f", *[float("nan")] * 7))),
        "NaN",
    ),
    "add_bos without bos": (
        spm(_TOKENS, _SCORES, _TYPES, g.key("tokenizer.ggml.add_bos_token", g.BOOL, b"\1")),
        "no bos token",
    ),
    **{
        f"merge {merge!r}": (byte_level(merges=(merge,)), "merges[0]")
        for merge in ("", " ", "a", "a ", " a", "a b c", "a  b")
    },
    "no merges": (
        SOUND.with_keys(
            g.text_key("tokenizer.ggml.model", "gpt2"),
            g.text_key("tokenizer.ggml.pre", "gpt-2"),
            g.strings_key("tokenizer.ggml.tokens", _TOKENS),
        ).file(),
        "merges is missing",
    ),
    "unknown pre-tokenizer": (byte_level(pre="gpt-17"), "'gpt-17'"),
    "unknown kind": (
        SOUND.with_keys(g.text_key("tokenizer.ggml.model", "rwkv")).file(),
        "'rwkv'",
    ),
    "half a million short tokens and no scores": (
        SOUND.with_keys(
            g.text_key("tokenizer.ggml.model", "llama"),
            g.strings_key("tokenizer.ggml.tokens", [f"{n:x}" for n in range(520_000)]),
        ).file(),
        "scores",
    ),
    "long tokens that cut in many ways": (
        spm(
            tuple("a" * n for n in range(1, 3001)),
            g.array_key("tokenizer.ggml.scores", g.FLOAT32, 3000, bytes(12_000)),
            typed(*[1] * 3000),
        ),
        "characters",
    ),
}

IMPERFECT: Mapping[str, tuple[bytes, str]] = {
    "a single byte token": (spm((*_TOKENS[:-1], "<0x0A>"), types=typed(2, 3, 3, 1, 1, 1, 6)), "255 of 256"),
    "empty token": (spm((*_TOKENS[:-1], "")), "token 6 of the vocabulary is empty"),
    "token twice": (spm((*_TOKENS[:-1], "a")), "token 6 of the vocabulary reads like token"),
    **{
        f"{role} token 7": (spm(_TOKENS, _SCORES, _TYPES, g.uint32_key(f"tokenizer.ggml.{role}_token_id", 7)), role)
        for role in ("bos", "eos", "unknown", "padding", "eot", "eom")
    },
    **{
        f"{role} token -1": (
            spm(_TOKENS, _SCORES, _TYPES, g.uint32_key(f"tokenizer.ggml.{role}_token_id", 2**32 - 1)),
            "",
        )
        for role in ("bos", "eos", "unknown", "padding", "eot", "eom")
    },
    "negative bos": (
        spm(_TOKENS, _SCORES, _TYPES, g.key("tokenizer.ggml.bos_token_id", g.INT32, struct.pack("<i", -1))),
        "",
    ),
    **{f"merge {merge!r}": (byte_level(merges=(merge,)), "1 of 1 merges") for merge in ("x y", "a a")},
}
"""Files that load, with the note that says what is odd; the empty one for what means nothing."""

CASES = {**PREAMBLE, **METADATA, **KNOWN_KEYS, **TENSORS, **VOCABULARY}
