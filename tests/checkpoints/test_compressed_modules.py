"""compressed-tensors folders of other people: older words, other schemes, and broken ones."""

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from small_folders import save

from halfpint import formats
from halfpint.checkpoints import open_checkpoint, read_float32
from halfpint.checkpoints.compressed_schemes import targets_of
from halfpint.errors import CheckpointError, UnsupportedError
from halfpint.tensors import QuantizedTensor

ROWS, COLUMNS = 136, 192


def weights(bits: int, **more: object) -> dict[str, object]:
    strategy = "group" if "group_size" in more else "channel"
    return {"num_bits": bits, "type": "int", "symmetric": True, "strategy": strategy, **more}


def config(groups: object, **more: object) -> str:
    return json.dumps({"quantization_config": {"quant_method": "compressed-tensors", "config_groups": groups, **more}})


def packed(module: str, quantized: QuantizedTensor) -> dict[str, np.ndarray]:
    """Store a symmetric tensor as the first versions did for 3, 5, 6 and 7 bits, and all versions for 2, 4 and 8."""
    bits = quantized.format.bits
    each = 32 // bits
    codes = quantized.parts["codes"].astype(np.int64) + (1 << (bits - 1))
    rows, columns = codes.shape
    padded = np.zeros((rows, -(-columns // each) * each), np.int64)
    padded[:, :columns] = codes
    words = (padded.reshape(rows, -1, each) << (np.arange(each) * bits)).sum(axis=2).astype(np.uint32).view(np.int32)
    return {
        f"{module}.weight_packed": words,
        f"{module}.weight_scale": quantized.parts["scales"],
        f"{module}.weight_shape": np.array([rows, columns], np.int64),
    }


def test_groups_of_one_width_are_told_apart_by_their_targets(tmp_path: Path) -> None:
    # With 192 columns in one group, int4 and int4-g192 leave the same shapes.
    modules = ("model.layers.0.mlp.experts.0.w", "model.layers.0.mlp.experts.1.w", "model.layers.0.mlp.down_proj")
    path = tmp_path / "model"
    path.mkdir()
    weight = np.random.default_rng(1).normal(size=(ROWS, COLUMNS)).astype(np.float32)
    quantized = formats.encode(weight, formats.by_name("int4"))
    arrays = {}
    for module in modules:
        arrays |= packed(module, quantized)
    save(path / "model.safetensors", arrays)
    groups = {
        "a": {"weights": weights(4), "targets": targets_of(modules[:1])},
        "b": {"weights": weights(4, group_size=192), "targets": targets_of(modules[1:])},
    }
    (path / "config.json").write_text(config(groups))
    checkpoint = open_checkpoint(path)
    sizes = [checkpoint.tensors[f"{module}.weight"].format.group_size for module in modules]  # type: ignore[union-attr]
    assert sizes == [0, 192, 192]
    groups["b"]["targets"] = ["re:.*(a+)+$"]
    (path / "config.json").write_text(config(groups))
    with pytest.raises(CheckpointError, match="no target names"):
        open_checkpoint(path)


@pytest.mark.parametrize("bits", range(2, 9))
def test_words_of_the_first_versions_are_read(bits: int, tmp_path: Path) -> None:
    weight = np.random.default_rng(bits).normal(size=(ROWS, COLUMNS)).astype(np.float32)
    quantized = formats.encode(weight, formats.by_name(f"int{bits}-g32"))
    save(tmp_path / "model.safetensors", packed("a", quantized))
    (tmp_path / "config.json").write_text(
        config({"g": {"weights": weights(bits, group_size=32), "targets": ["Linear"]}})
    )
    checkpoint = open_checkpoint(tmp_path)
    assert np.array_equal(read_float32(checkpoint, "a.weight"), formats.decode(quantized))
    assert np.array_equal(read_float32(checkpoint, "a.weight", 33, 70), formats.decode(quantized)[33:70])


@pytest.mark.parametrize("bits", [3, 4, 8])
def test_zero_points_that_are_not_packed_are_read(bits: int, tmp_path: Path) -> None:
    weight = np.random.default_rng(bits).normal(size=(ROWS, COLUMNS)).astype(np.float32)
    quantized = formats.encode(weight, formats.by_name(f"int{bits}-g32-asym"))
    half = 1 << (bits - 1)
    parts = {**quantized.parts, "codes": (quantized.parts["codes"].astype(np.int16) - half).astype(np.int8)}
    arrays = packed("a", QuantizedTensor(quantized.format, quantized.shape, parts))
    arrays["a.weight_zero_point"] = (quantized.parts["zero_points"].astype(np.int16) - half).astype(np.int8)
    save(tmp_path / "model.safetensors", arrays)
    group = {"weights": weights(bits, group_size=32, symmetric=False), "targets": ["Linear"]}
    (tmp_path / "config.json").write_text(config({"g": group}))
    checkpoint = open_checkpoint(tmp_path)
    assert np.array_equal(read_float32(checkpoint, "a.weight"), formats.decode(quantized))
    assert np.array_equal(read_float32(checkpoint, "a.weight", 33, 70), formats.decode(quantized)[33:70])


@pytest.mark.parametrize("scale", ["row", "tensor", "group", "zero points"])
def test_int8_weights_are_read_and_scales_of_activations_are_no_weights(scale: str, tmp_path: Path) -> None:
    generator = np.random.default_rng(9)
    codes = generator.integers(-128, 128, (ROWS, COLUMNS), dtype=np.int8)
    shape = {"row": (ROWS, 1), "tensor": (1,), "group": (ROWS, 6), "zero points": (ROWS, 1)}[scale]
    scales = generator.uniform(0.01, 0.02, shape).astype(ml_dtypes.bfloat16)
    arrays = {"a.weight": codes, "a.weight_scale": scales, "a.input_scale": np.ones(1, np.float32)}
    wide = np.repeat(
        scales.reshape(len(scales.reshape(-1)) if scale == "tensor" else ROWS, -1),
        32 if scale == "group" else COLUMNS,
        1,
    )
    zeros = np.zeros((ROWS, 1), np.int8)
    if scale == "zero points":
        zeros = arrays["a.weight_zero_point"] = generator.integers(-128, 128, (ROWS, 1), dtype=np.int8)
    save(tmp_path / "model.safetensors", arrays)
    strategy = {"tensor": "tensor", "group": "group"}.get(scale, "channel")
    arguments = {**weights(8), "strategy": strategy, "group_size": 32 if scale == "group" else None}
    group = {"weights": {**arguments, "symmetric": scale != "zero points"}, "targets": ["Linear"]}
    (tmp_path / "config.json").write_text(config({"g": group}, format="int-quantized"))
    checkpoint = open_checkpoint(tmp_path)
    assert set(checkpoint.tensors) == {"a.weight"}
    expected = (codes.astype(np.float32) - zeros) * wide.astype(np.float32)
    assert np.array_equal(read_float32(checkpoint, "a.weight"), expected)
    assert np.array_equal(read_float32(checkpoint, "a.weight", 3, 9), expected[3:9])


def _broken(change: str, arrays: dict[str, np.ndarray], section: dict[str, object]) -> None:
    group = section["g"]
    assert isinstance(group, dict)
    changes = {
        "no scale": lambda: arrays.pop("a.weight_scale"),
        "no shape": lambda: arrays.pop("a.weight_shape"),
        "shape of other rows": lambda: arrays.update({"a.weight_shape": np.array([ROWS + 1, COLUMNS])}),
        "shape of other columns": lambda: arrays.update({"a.weight_shape": np.array([ROWS, 10**6])}),
        "negative shape": lambda: arrays.update({"a.weight_shape": np.array([ROWS, -COLUMNS])}),
        "shape of zero": lambda: arrays.update({"a.weight_shape": np.array([ROWS, 0])}),
        "huge shape": lambda: arrays.update({"a.weight_shape": np.array([ROWS, 2**62])}),
        "shape of three": lambda: arrays.update({"a.weight_shape": np.array([ROWS, COLUMNS, 1])}),
        "scales of other groups": lambda: arrays.update({"a.weight_scale": np.ones((ROWS, 5), np.float16)}),
        "scales of other rows": lambda: arrays.update({"a.weight_scale": np.ones((ROWS - 1, 6), np.float16)}),
        "scales of integers": lambda: arrays.update({"a.weight_scale": np.ones((ROWS, 6), np.int32)}),
        "words of bytes": lambda: arrays.update({"a.weight_packed": np.zeros((ROWS, 24), np.uint8)}),
        "words of three axes": lambda: arrays.update({"a.weight_packed": np.zeros((1, ROWS, 24), np.int32)}),
        "packed and plain": lambda: arrays.update({"a.weight": np.zeros((ROWS, COLUMNS), np.float32)}),
        "zero points of other words": lambda: arrays.update({"a.weight_zero_point": np.zeros((3, 6), np.int32)}),
        "reordered columns": lambda: arrays.update({"a.weight_g_idx": np.zeros(COLUMNS, np.int32)}),
        "other bits": lambda: group["weights"].update(num_bits=8),
        "no bits": lambda: group["weights"].pop("num_bits"),
        "true bits": lambda: group["weights"].update(num_bits=True),
        "64 bits": lambda: group["weights"].update(num_bits=64),
        "group of zero": lambda: group["weights"].update(group_size=0),
        "group of text": lambda: group["weights"].update(group_size="32"),
        "unknown strategy": lambda: group["weights"].update(strategy="attn_head"),
        "actorder": lambda: group["weights"].update(actorder="group"),
        "targets of numbers": lambda: group.update(targets=[1]),
        "no targets": lambda: group.pop("targets"),
        "preset": lambda: section.update(g=["Linear"]),
        "marlin": lambda: group.update(format="marlin-24"),
        "format of a number": lambda: group.update(format=3),
    }
    changes[change]()


@pytest.mark.parametrize(
    "change",
    [
        "no scale", "no shape", "shape of other rows", "shape of other columns", "negative shape", "shape of zero",
        "huge shape", "shape of three", "scales of other groups", "scales of other rows", "scales of integers",
        "words of bytes", "words of three axes", "packed and plain", "zero points of other words", "reordered columns",
        "other bits", "no bits", "true bits", "64 bits", "group of zero", "group of text", "unknown strategy",
        "actorder",
        "targets of numbers", "no targets", "preset", "marlin", "format of a number",
    ],
)  # fmt: skip
def test_broken_folders_end_in_our_error(change: str, tmp_path: Path) -> None:
    weight = np.random.default_rng(2).normal(size=(ROWS, COLUMNS)).astype(np.float32)
    arrays = packed("a", formats.encode(weight, formats.by_name("int4-g32")))
    section: dict[str, object] = {"g": {"weights": weights(4, group_size=32), "targets": ["Linear"]}}
    _broken(change, arrays, section)
    save(tmp_path / "model.safetensors", arrays)
    (tmp_path / "config.json").write_text(config(section))
    with pytest.raises((CheckpointError, UnsupportedError)):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("groups", [None, [], "x", {"g": None}, {"g": {}}, {str(i): {} for i in range(2_000)}])
def test_broken_groups_end_in_our_error(groups: object, tmp_path: Path) -> None:
    save(tmp_path / "model.safetensors", {})
    (tmp_path / "config.json").write_text(config(groups))
    with pytest.raises(CheckpointError, match="config_groups"):
        open_checkpoint(tmp_path)
