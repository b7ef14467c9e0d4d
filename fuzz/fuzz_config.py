"""Fuzz config.json of a compressed-tensors folder: `python fuzz/fuzz_config.py --seconds 600`.

An accepted folder reads: every tensor has the shape that its header promises, and its rows are those of the whole.
"""

import json
import tempfile
from pathlib import Path

import harness
import mutation
import numpy as np

from halfpint.checkpoints import open_checkpoint, read_float32
from halfpint.checkpoints.safetensors_file import SafetensorsLayout, SafetensorsWriter

ROWS, COLUMNS = 6, 64
WEIGHTS = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 32, "dynamic": False}
INT8 = {"num_bits": 8, "type": "int", "symmetric": False, "strategy": "channel"}
GROUPS = {
    "group_0": {"targets": ["Linear"], "weights": WEIGHTS, "input_activations": None, "format": "pack-quantized"},
    "group_1": {"targets": ["re:.*b$", "b"], "weights": INT8, "format": "int-quantized"},
}
SECTION = {"quant_method": "compressed-tensors", "format": "mixed-precision", "ignore": ["lm_head"]}
SEEDS = (
    json.dumps({"model_type": "llama", "quantization_config": {**SECTION, "config_groups": GROUPS}}).encode(),
    json.dumps({"compression_config": {**SECTION, "config_groups": GROUPS}}, separators=(",", ":")).encode(),
    json.dumps(
        {"quantization_config": {"quant_method": "compressed-tensors", "config_groups": GROUPS}}, indent=1
    ).encode(),
)
DICTIONARY = (
    b'"num_bits":', b'"group_size":', b'"strategy":', b'"symmetric":', b'"type":', b'"targets":',
    b'"config_groups":', b'"format":', b'"quant_method":', b'"actorder":', b'"group"', b'"channel"',
    b'"tensor"', b'"block"', b'"int"', b'"float"', b'"gptq"', b'"fp8"', b'"weight_block_size":', b"[128,128]",
    b"true", b"false", b"null", b"[]", b"{}", b"{", b"}", b"[", b"]", b'"', b",", b":", b"-1", b"1.5", b"NaN",
    b"1e400", b"\\ud800", b"\xff", b"re:(a+)+$", b'"sparsity_config":{"format":"x"},',
)  # fmt: skip
ARRAYS = {
    "a.weight_packed": np.arange(ROWS * COLUMNS // 8, dtype=np.int32).reshape(ROWS, -1),
    "a.weight_scale": np.ones((ROWS, COLUMNS // 32), np.float16),
    "a.weight_shape": np.array([ROWS, COLUMNS], np.int64),
    "b.weight": np.arange(ROWS * COLUMNS, dtype=np.int16).astype(np.int8).reshape(ROWS, COLUMNS),
    "b.weight_scale": np.ones((ROWS, 1), np.float32),
    "b.weight_zero_point": np.ones((ROWS, 1), np.int8),
    "norm.weight": np.ones(COLUMNS, np.float32),
}
WORDS = {"int32": "I32", "float16": "F16", "int64": "I64", "int8": "I8", "float32": "F32"}


class InconsistencyError(Exception):
    """A tensor does not read as its header promises."""


def target(data: bytes) -> None:
    """Open the folder with this config.json, and read everything."""
    (MODEL / "config.json").write_bytes(data)
    checkpoint = open_checkpoint(MODEL)
    try:
        for name, spec in checkpoint.tensors.items():
            if name.endswith(("_packed", "_shape", "_zero_point", "b.weight")) and spec.format is None:
                checkpoint.read(name)  # the folder passes as a plain one: integers are only copied
                continue
            whole = read_float32(checkpoint, name)
            if whole.shape != spec.shape or not np.array_equal(whole[1:3], read_float32(checkpoint, name, 1, 3)):
                raise InconsistencyError(f"{name}: {spec}")
    finally:
        checkpoint.close()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        MODEL = Path(folder)
        layout = SafetensorsLayout({name: (WORDS[str(a.dtype)], a.shape) for name, a in ARRAYS.items()}, {})
        writer = SafetensorsWriter(MODEL / "model.safetensors", layout)
        for name, array in ARRAYS.items():
            writer.write_rows(name, 0, array)
        writer.close()
        harness.main(target, mutation.maker(SEEDS, DICTIONARY))
