"""Small folders of safetensors files to open, written by our own writer."""

import json
from collections.abc import Mapping
from pathlib import Path

import ml_dtypes
import numpy as np

from halfpint.checkpoints.safetensors_file import SafetensorsLayout, SafetensorsWriter
from halfpint.checkpoints.safetensors_header import DTYPES

INDEX = "model.safetensors.index.json"
_WORDS = {dtype: word for word, dtype in DTYPES.items()}


def save(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    layout = SafetensorsLayout({name: (_WORDS[array.dtype], array.shape) for name, array in arrays.items()}, {})
    writer = SafetensorsWriter(path, layout)
    for name, array in arrays.items():
        writer.write_rows(name, 0, array)
    writer.close()


def arrays() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(7)
    return {
        "model.embed_tokens.weight": generator.normal(size=(40, 16)).astype(ml_dtypes.bfloat16),
        "model.layers.0.mlp.up_proj.weight": generator.normal(size=(24, 16)).astype(np.float16),
        "model.layers.0.experts": generator.normal(size=(3, 4, 16)).astype(np.float32),
        "model.norm.weight": generator.normal(size=16).astype(np.float32),
        "model.rotary.steps": np.arange(5),
        "model.temperature": np.array(0.5, np.float32),
        "model.empty": np.zeros((0, 4), np.float32),
        "model.double": generator.normal(size=(2, 2)),
    }


def folder(path: Path, *, shards: int = 1, config: object = None) -> Path:
    path.mkdir()
    (path / "config.json").write_text(json.dumps({"model_type": "llama"} if config is None else config))
    stored = arrays()
    if shards == 1:
        save(path / "model.safetensors", stored)
        return path
    weight_map = {name: f"model-{i % shards + 1:05}-of-{shards:05}.safetensors" for i, name in enumerate(stored)}
    for file in set(weight_map.values()):
        save(path / file, {name: stored[name] for name in stored if weight_map[name] == file})
    (path / INDEX).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
    return path
