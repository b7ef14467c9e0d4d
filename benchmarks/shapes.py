"""Make checkpoints of well-known shapes with random weights, to measure time and memory on.

    python benchmarks/shapes.py llama-2-7b /somewhere/llama-2-7b

Weights are Gaussian bfloat16 with the spread of a fresh initialisation; the tokenizer has as many tokens as the
shape asks for, of which only the bytes are used. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import json
import struct
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

SHARD_BYTES = 4_900_000_000
PIECE = 16_000_000
SPREAD = np.float32(0.02)


@dataclass(frozen=True)
class Shape:
    """Sizes of a Llama."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    positions: int


SHAPES = {
    "llama-2-7b": Shape(4096, 11008, 32, 32, 32, 32000, 4096),
    "tinyllama-1.1b": Shape(2048, 5632, 22, 32, 4, 32000, 2048),
    "tiny": Shape(256, 768, 2, 8, 4, 512, 512),
}


def tensors(shape: Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes, in file order."""
    key = shape.hidden // shape.heads * shape.kv_heads
    yield "model.embed_tokens.weight", (shape.vocabulary, shape.hidden)
    for layer in range(shape.layers):
        block = f"model.layers.{layer}."
        yield block + "input_layernorm.weight", (shape.hidden,)
        yield block + "self_attn.q_proj.weight", (shape.hidden, shape.hidden)
        yield block + "self_attn.k_proj.weight", (key, shape.hidden)
        yield block + "self_attn.v_proj.weight", (key, shape.hidden)
        yield block + "self_attn.o_proj.weight", (shape.hidden, shape.hidden)
        yield block + "post_attention_layernorm.weight", (shape.hidden,)
        yield block + "mlp.gate_proj.weight", (shape.intermediate, shape.hidden)
        yield block + "mlp.up_proj.weight", (shape.intermediate, shape.hidden)
        yield block + "mlp.down_proj.weight", (shape.hidden, shape.intermediate)
    yield "model.norm.weight", (shape.hidden,)
    yield "lm_head.weight", (shape.vocabulary, shape.hidden)


def write_shards(shape: Shape, folder: Path, seed: int) -> None:
    """Write the weights, a shard at a time, and their index."""
    shards: list[list[tuple[str, tuple[int, ...]]]] = [[]]
    filled = 0
    for name, dimensions in tensors(shape):
        nbytes = 2 * int(np.prod(dimensions))
        if filled and filled + nbytes > SHARD_BYTES:
            shards.append([])
            filled = 0
        shards[-1].append((name, dimensions))
        filled += nbytes
    generator = np.random.Generator(np.random.SFC64(seed))
    weight_map: dict[str, str] = {}
    total = 0
    for number, members in enumerate(shards, start=1):
        file_name = f"model-{number:05}-of-{len(shards):05}.safetensors" if len(shards) > 1 else "model.safetensors"
        total += write_shard(folder / file_name, members, generator)
        weight_map.update(dict.fromkeys((name for name, _ in members), file_name))
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1))


def write_shard(path: Path, members: list[tuple[str, tuple[int, ...]]], generator: np.random.Generator) -> int:
    """One safetensors file; returns the bytes of its tensors."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, dimensions in members:
        end = offset + 2 * int(np.prod(dimensions))
        header[name] = {"dtype": "BF16", "shape": list(dimensions), "data_offsets": [offset, end]}
        offset = end
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        for name, dimensions in members:
            count = int(np.prod(dimensions))
            for start in range(0, count, PIECE):
                size = min(PIECE, count - start)
                if "norm" in name:
                    values = np.ones(size, dtype=np.float32)
                else:
                    values = generator.standard_normal(size, dtype=np.float32) * SPREAD
                values.astype(ml_dtypes.bfloat16).tofile(file)
    return offset


def write_tokenizer(shape: Shape, folder: Path) -> None:
    """A byte-level tokenizer padded to the vocabulary's size with tokens that no text contains."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = ["<s>", "</s>", *alphabet, *(f"<unused{i}>" for i in range(shape.vocabulary - len(alphabet) - 2))]
    tokenizer = Tokenizer(models.BPE(vocab={name: i for i, name in enumerate(names)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {"bos_token": "<s>", "eos_token": "</s>", "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(special, indent=1))


def write_config(shape: Shape, folder: Path) -> None:
    """config.json in Hugging Face's words."""
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "vocab_size": shape.vocabulary,
        "max_position_embeddings": shape.positions,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "torch_dtype": "bfloat16",
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    shape: Shape = SHAPES[arguments.shape]
    arguments.folder.mkdir(parents=True, exist_ok=False)
    started = time.monotonic()
    write_config(shape, arguments.folder)
    write_tokenizer(shape, arguments.folder)
    write_shards(shape, arguments.folder, arguments.seed)
    sys.stdout.write(f"{arguments.shape}: {time.monotonic() - started:.0f} s\n")


if __name__ == "__main__":
    main()
