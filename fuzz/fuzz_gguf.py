"""Fuzz the reader of GGUF files, and the tokenizers inside them, with files that are almost sound.

    python fuzz/fuzz_gguf.py --seconds 600

The mutations know where counts, lengths, types, dimensions and offsets lie, so that most inputs get past the first
check and fail somewhere deeper.
"""

from __future__ import annotations

import random
import struct
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import harness
import numpy as np

from halfpint.checkpoints.gguf_layout import GgufLayout
from halfpint.checkpoints.gguf_metadata import GgufValue, ValueType, array, boolean, text, texts, uint32
from halfpint.checkpoints.gguf_reader import GgufCheckpoint
from halfpint.checkpoints.gguf_types import TYPES
from halfpint.errors import UnsupportedError
from halfpint.tokenization import load_tokenizer

INTERESTING = (0, 1, 2, 3, 4, 5, 7, 8, 31, 32, 33, 63, 64, 65, 127, 128, 255, 256, 1 << 15, 1 << 16, 1 << 20, 1 << 22)
INTERESTING += (
    (1 << 31) - 1,
    1 << 31,
    (1 << 32) - 1,
    1 << 32,
    1 << 40,
    (1 << 62) + 1,
    (1 << 63) - 1,
    1 << 63,
    (1 << 64) - 1,
)

TEXTS = (
    b"",
    b"\0",
    b"\xff",
    b"<0x-1>",
    b"<0xZZ>",
    b"<0x0A>",
    b"<s>",
    b" ",
    b"a b",
    "▁".encode(),
    "é".encode(),
    b"{{",
    b"none",
)
TEXTS += (
    b"llama",
    b"gpt2",
    b"gpt-2",
    b"qwen2",
    b"general.alignment",
    b"split.count",
    b"llama.block_count",
    b"blk.0.attn_q.weight",
)

SAMPLE = "Once upon a time 😀\n<s> <0x0A> ▁é"


def target(data: bytes) -> None:
    """Open, read everything, tokenize."""
    with tempfile.NamedTemporaryFile(suffix=".gguf", dir=SCRATCH.name) as file:
        file.write(data)
        file.flush()
        checkpoint = GgufCheckpoint(Path(file.name))
    try:
        for name, spec in checkpoint.tensors.items():
            try:
                checkpoint.read(name)
                checkpoint.read(name, 0, min(spec.shape[0], 1))
            except UnsupportedError:  # a type that is only sized
                continue
        tokenizer = load_tokenizer(checkpoint)
        tokenizer.decode(tokenizer.encode(SAMPLE))
    finally:
        checkpoint.close()


def _sizes(**changes: int) -> dict[str, GgufValue]:
    sizes = {
        "context_length": 32,
        "embedding_length": 8,
        "block_count": 1,
        "feed_forward_length": 16,
        "attention.head_count": 2,
        "attention.head_count_kv": 1,
        "expert_count": 2,
        "expert_used_count": 1,
        **changes,
    }
    return {f"llama.{name}": uint32(size) for name, size in sizes.items() if size}


_SPM = (
    "<unk>",
    "<s>",
    "</s>",
    *(f"<0x{n:02X}>" for n in range(256)),
    "▁",
    "o",
    "n",
    "ce",
    "c",
    "e",
    "on",
    "▁on",
    "<tool>",
)
_BPE = ("<|end|>", *(chr(n) for n in range(33, 127)), "Ġ", "Ċ", "on", "Ġon", "once")


def _tokenizer(kind: str) -> dict[str, GgufValue]:
    if kind == "llama":
        types = [2, 3, 3, *[6] * 256, *[1] * (len(_SPM) - 260), 4]
        lists = {
            "tokens": texts(_SPM, "tokens"),
            "scores": array(-np.arange(len(_SPM), dtype=np.float32), ValueType.FLOAT32),
            "token_type": array(np.array(types), ValueType.INT32),
            "bos_token_id": uint32(1),
            "eos_token_id": uint32(2),
            "add_space_prefix": boolean(True),
        }
    else:
        lists = {
            "pre": text("llama-bpe"),
            "tokens": texts(_BPE, "tokens"),
            "merges": texts(["o n", "Ġ on"], "merges"),
            "token_type": array(np.array([3, *[1] * (len(_BPE) - 1)]), ValueType.INT32),
            "eos_token_id": uint32(0),
        }
    return {"tokenizer.ggml.model": text(kind)} | {f"tokenizer.ggml.{name}": value for name, value in lists.items()}


@cache
def seeds() -> tuple[bytes, ...]:
    """Sound files, as our writer makes them: a Llama, a mixture of experts, a model of no known family."""
    layer = {
        "attn_norm.weight": (8,),
        "ffn_norm.weight": (8,),
        "attn_q.weight": (8, 8),
        "attn_k.weight": (4, 8),
        "attn_v.weight": (4, 8),
        "attn_output.weight": (8, 8),
    }
    dense = {**layer, "ffn_gate.weight": (16, 8), "ffn_up.weight": (16, 8), "ffn_down.weight": (8, 16)}
    names = ("gate", "up", "down")
    experts = {**layer, "ffn_gate_inp.weight": (2, 8)} | {f"ffn_{n}_exps.weight": (2, 16, 8) for n in names[:2]}
    experts["ffn_down_exps.weight"] = (2, 8, 16)
    made = []
    for block, kind, sizes in (
        (dense, "llama", _sizes(expert_count=0, expert_used_count=0)),
        (experts, "gpt2", _sizes()),
    ):
        epsilon = {"llama.attention.layer_norm_rms_epsilon": GgufValue(ValueType.FLOAT32, 1e-5)}
        metadata = {"general.architecture": text("llama"), **sizes, **epsilon, **_tokenizer(kind)}
        tensors = [("token_embd.weight", (len(_SPM), 8), TYPES[0]), ("output_norm.weight", (8,), TYPES[0])]
        tensors += [(f"blk.0.{name}", shape, TYPES[0]) for name, shape in block.items()]
        tensors.append(("rope_freqs.weight", (2,), TYPES[0]))
        made.append(_file(GgufLayout(metadata, tensors)))
    kinds = [(f"t{kind.type_id}", (2, 256), kind) for kind in TYPES.values()]
    more = {"general.alignment": uint32(32), "toy.flags": array(np.array([1, 0]), ValueType.BOOL)}
    more |= {"toy.many": array(np.arange(9), ValueType.INT64), "toy.x": GgufValue(ValueType.FLOAT64, 0.5)}
    made.append(_file(GgufLayout({"general.architecture": text("toy"), **more, **_tokenizer("llama")}, kinds)))
    return tuple(made)


def _file(layout: GgufLayout) -> bytes:
    return layout.header + b"\0\0\x80?" * ((layout.size - len(layout.header)) // 4)  # ones, as float32


def fields(data: bytes) -> Iterator[tuple[int, int, str]]:
    """Walk a sound header: (offset, size, kind) of everything that decides how the rest is read."""
    yield from ((0, 4, "magic"), (4, 4, "version"), (8, 8, "count"), (16, 8, "count"))
    tensors, keys = struct.unpack_from("<QQ", data, 8)
    at = 24
    for _ in range(keys):
        at = yield from _text(data, at)
        at = yield from _value(data, at)
    for _ in range(tensors):
        at = yield from _text(data, at)
        (axes,) = struct.unpack_from("<I", data, at)
        yield at, 4, "axes"
        yield from ((at + 4 + 8 * axis, 8, "dimension") for axis in range(axes))
        yield at + 4 + 8 * axes, 4, "type"
        yield at + 8 + 8 * axes, 8, "offset"
        at += 16 + 8 * axes


_WIDTHS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}


def _text(data: bytes, at: int) -> Iterator[tuple[int, int, str]]:
    (length,) = struct.unpack_from("<Q", data, at)
    yield at, 8, "length"
    yield at, 8 + length, "text"
    return at + 8 + length


def _value(data: bytes, at: int) -> Iterator[tuple[int, int, str]]:
    (kind,) = struct.unpack_from("<I", data, at)
    yield at, 4, "value type"
    if kind == ValueType.STRING:
        return (yield from _text(data, at + 4))
    if kind != ValueType.ARRAY:
        yield at + 4, _WIDTHS[kind], "number"
        return at + 4 + _WIDTHS[kind]
    element, count = struct.unpack_from("<IQ", data, at + 4)
    yield at + 4, 4, "value type"
    yield at + 8, 8, "count"
    at += 16
    for _ in range(count):
        if element == ValueType.STRING:
            at = yield from _text(data, at)
        else:
            yield at, _WIDTHS[element], "number"
            at += _WIDTHS[element]
    return at


@cache
def _fields_of(seed: int) -> tuple[tuple[int, int, str], ...]:
    return tuple(fields(seeds()[seed]))


def make(generator: random.Random) -> bytes:
    """One input: a seed with one to four things changed."""
    seed = generator.randrange(len(seeds()))
    data = bytearray(seeds()[seed])
    known = _fields_of(seed)
    for _ in range(generator.choice((1, 1, 1, 2, 3, 4))):
        # Kinds first: else the bytes of vocabularies would take all attention.
        kind = generator.choice(sorted({field[2] for field in known}))
        at, size, _ = generator.choice([field for field in known if field[2] == kind])
        _change(data, at, size, kind, generator)
    return bytes(data)


def _change(data: bytearray, at: int, size: int, kind: str, generator: random.Random) -> None:
    how = generator.random()
    if how < 0.05:
        del data[generator.randrange(len(data)) :]
    elif how < 0.1:
        start = generator.randrange(len(data))
        del data[start : start + generator.randrange(64)]
    elif how < 0.15:
        start = generator.randrange(len(data))
        data[start:start] = data[at : at + size + generator.randrange(64)]
    elif how < 0.25 and data:
        data[generator.randrange(len(data))] = generator.randrange(256)
    elif kind == "text":
        replacement = generator.choice((*TEXTS, bytes(generator.randrange(70)), b"a" * generator.randrange(3000)))
        data[at : at + size] = struct.pack("<Q", len(replacement)) + replacement
    else:
        value = int.from_bytes(data[at : at + size], "little")
        near = (value - 1, value + 1, value * 2, value ^ 1 << generator.randrange(8 * max(size, 1)), len(data) - at)
        chosen = generator.choice((*INTERESTING, *near, generator.getrandbits(8 * max(size, 1))))
        data[at : at + size] = (chosen % (1 << 8 * size)).to_bytes(size, "little")


SCRATCH = tempfile.TemporaryDirectory()

if __name__ == "__main__":
    harness.main(target, make)
