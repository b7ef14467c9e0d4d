"""compressed-tensors folders: codes come back as they were written, in words that engines read."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from small_folders import save

from halfpint import formats
from halfpint.checkpoints import CONTAINERS, open_checkpoint, read_float32
from halfpint.checkpoints.checkpoint import Checkpoint, OutputTensor
from halfpint.checkpoints.compressed_schemes import quantization_section, targets_of
from halfpint.checkpoints.compressed_tensors import CompressedTensors, fusion_conflict
from halfpint.checkpoints.safetensors_file import SafetensorsFile
from halfpint.errors import UnsupportedError, UsageError
from halfpint.tensors import Format, QuantizedTensor

ROWS, COLUMNS = 136, 192
NAMES = (
    "int4-g32", "int4-g64-bf16", "int4-g16-asym", "int4", "int4-asym-fp32", "int3-g32", "int3-g64-asym-bf16",
    "int2-g32-asym", "int5-g32", "int6-asym", "int7-g64-asym", "int8-g32", "int8-bf16", "int8-g64-asym", "fp8",
    "fp8-block",
)  # fmt: skip


def source(path: Path, modules: tuple[str, ...] = ("model.layers.0.mlp.down_proj",)) -> Checkpoint:
    generator = np.random.default_rng(5)
    path.mkdir()
    (path / "config.json").write_text('{"model_type": "llama", "torch_dtype": "bfloat16"}')
    (path / "tokenizer.json").write_text("{}")
    arrays = {
        f"{module}.weight": generator.normal(size=(ROWS, COLUMNS)).astype(ml_dtypes.bfloat16) for module in modules
    }
    arrays["model.embed_tokens.weight"] = generator.normal(size=(50, COLUMNS)).astype(ml_dtypes.bfloat16)
    arrays["model.norm.weight"] = np.ones(COLUMNS, np.float32)
    save(path / "model.safetensors", arrays)
    return open_checkpoint(path)


def quantize(
    checkpoint: Checkpoint, out: Path, chosen: Mapping[str, Format], shard_bytes: int = 10**9
) -> tuple[Checkpoint, dict[str, QuantizedTensor]]:
    """Write a folder with these formats, rows last to first."""
    outputs = [
        OutputTensor(name, spec.shape, chosen.get(name.removesuffix(".weight"), spec.format), spec.dtype)
        for name, spec in checkpoint.tensors.items()
    ]
    container = CompressedTensors(shard_bytes)
    writer = container.create(out, checkpoint, outputs)
    whole = {}
    for tensor in outputs:
        if tensor.format is None or tensor.format == checkpoint.tensors[tensor.name].format:
            writer.write(tensor.name, 0, checkpoint.read(tensor.name))
            continue
        weight = read_float32(checkpoint, tensor.name)
        whole[tensor.name] = formats.encode(weight, tensor.format)
        step = max(32, tensor.format.row_multiple)
        for start in reversed(range(0, len(weight), step)):
            writer.write(tensor.name, start, formats.encode(weight[start : start + step], tensor.format))
    writer.finish()
    result = open_checkpoint(out)
    assert result.container == "compressed-tensors"
    assert result.weight_bytes == container.size(checkpoint, outputs)
    return result, whole


def bits_of_row(words: np.ndarray, bits: int, count: int) -> list[int]:
    """Read codes from the definition: bit i of the row is bit i % 32 of word i // 32."""
    number = int.from_bytes(words.astype("<i4").tobytes(), "little")
    return [(number >> (i * bits)) & ((1 << bits) - 1) for i in range(count)]


@pytest.mark.parametrize("shard_bytes", [10**9, 30_000])
@pytest.mark.parametrize("name", NAMES)
def test_codes_come_back_as_they_were_written(name: str, shard_bytes: int, tmp_path: Path) -> None:
    checkpoint = source(tmp_path / "model")
    fmt = formats.by_name(name)
    result, whole = quantize(checkpoint, tmp_path / "out", {"model.layers.0.mlp.down_proj": fmt}, shard_bytes)
    assert set(result.tensors) == set(checkpoint.tensors)
    for tensor, expected in whole.items():
        assert result.tensors[tensor].format == fmt
        assert result.tensors[tensor].shape == (ROWS, COLUMNS)
        values = result.read(tensor)
        assert isinstance(values, QuantizedTensor)
        assert set(values.parts) == set(expected.parts)
        for part, array in expected.parts.items():
            assert values.parts[part].dtype == array.dtype
            assert values.parts[part].tobytes() == array.tobytes()
    for tensor in ("model.embed_tokens.weight", "model.norm.weight"):
        assert result.read(tensor).tobytes() == checkpoint.read(tensor).tobytes()
    assert (tmp_path / "out" / "tokenizer.json").read_text() == "{}"


@pytest.mark.parametrize("name", NAMES)
def test_rows_are_those_of_the_whole(name: str, tmp_path: Path) -> None:
    fmt = formats.by_name(name)
    chosen = {"model.layers.0.mlp.down_proj": fmt}
    result, _ = quantize(source(tmp_path / "model"), tmp_path / "out", chosen)
    whole = read_float32(result, "model.layers.0.mlp.down_proj.weight")
    for start, end in ((0, 1), (31, 33), (128, 136), (77, 77), (5, 136)):
        if start % fmt.row_multiple == 0 and end % fmt.row_multiple in (0, ROWS % fmt.row_multiple):
            part = read_float32(result, "model.layers.0.mlp.down_proj.weight", start, end)
            assert np.array_equal(part, whole[start:end])


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("int")])
def test_the_words_are_those_of_the_definition(name: str, tmp_path: Path) -> None:
    fmt = formats.by_name(name)
    chosen = {"model.layers.0.mlp.down_proj": fmt}
    _, whole = quantize(source(tmp_path / "model"), tmp_path / "out", chosen)
    file = SafetensorsFile(tmp_path / "out" / "model.safetensors")
    parts = whole["model.layers.0.mlp.down_proj.weight"].parts
    packed = file.read("model.layers.0.mlp.down_proj.weight_packed")
    assert packed.dtype == np.int32
    assert packed.shape == (ROWS, -(-COLUMNS * fmt.bits // 32))
    offset = 0 if "zero_points" in parts else 1 << (fmt.bits - 1)
    for row in (0, 67, ROWS - 1):
        assert bits_of_row(packed[row], fmt.bits, COLUMNS) == [int(code) + offset for code in parts["codes"][row]]
    assert file.read("model.layers.0.mlp.down_proj.weight_shape").tolist() == [ROWS, COLUMNS]
    if "zero_points" in parts:
        zeros = file.read("model.layers.0.mlp.down_proj.weight_zero_point")
        assert zeros.shape == (-(-ROWS * fmt.bits // 32), parts["scales"].shape[1])
        for group in range(zeros.shape[1]):
            expected = [int(code) for code in parts["zero_points"][:, group]]
            assert bits_of_row(np.ascontiguousarray(zeros[:, group]), fmt.bits, ROWS) == expected


def test_several_formats_each_have_a_group_that_names_its_modules(tmp_path: Path) -> None:
    modules = tuple(f"model.layers.{i}.{leaf}" for i in range(2) for leaf in ("mlp.down_proj", "self_attn.o_proj"))
    checkpoint = source(tmp_path / "model", (*modules, "model.layers.0.mlp.router", "lm_head"))
    chosen = {
        modules[0]: formats.by_name("int4-g32"),
        modules[1]: formats.by_name("int8"),
        modules[2]: formats.by_name("int4-g32-bf16"),
        modules[3]: formats.by_name("fp8"),
    }
    result, _ = quantize(checkpoint, tmp_path / "out", chosen)
    section = result.config["quantization_config"]
    groups = section["config_groups"].values()
    assert [group["targets"] for group in groups] == [[modules[0], modules[2]], [modules[1]], [modules[3]]]
    assert [group["format"] for group in groups] == ["pack-quantized", "pack-quantized", "float-quantized"]
    assert section["format"] == "mixed-precision"
    assert set(section["ignore"]) == {"model.layers.0.mlp.router", "lm_head", "model.embed_tokens"}
    for module, fmt in chosen.items():
        assert result.tensors[f"{module}.weight"].format == fmt


def test_one_format_targets_all_linear_layers_and_ignores_the_others(tmp_path: Path) -> None:
    checkpoint = source(tmp_path / "model")
    result, _ = quantize(checkpoint, tmp_path / "out", {"model.layers.0.mlp.down_proj": formats.by_name("int4-g32")})
    section = result.config["quantization_config"]
    assert section["format"] == "pack-quantized"
    assert section["ignore"] == ["model.embed_tokens", "lm_head"]
    (group,) = section["config_groups"].values()
    assert group["targets"] == ["Linear"]
    assert group["weights"] == {
        "num_bits": 4, "type": "int", "symmetric": True, "dynamic": False, "strategy": "group", "group_size": 32,
    }  # fmt: skip
    assert list(result.config)[:2] == ["model_type", "torch_dtype"]


def test_expressions_name_exactly_their_experts() -> None:
    modules = [
        f"model.layers.{i}.mlp.experts.{j}.{p}" for i in range(12) for j in range(12) for p in ("a_proj", "b_proj")
    ]
    chosen = [module for index, module in enumerate(modules) if index % 5 == 0]
    targets = targets_of([*chosen, "model.layers.1.mlp.down_proj"])
    assert targets[0] == "model.layers.1.mlp.down_proj"
    assert len(targets) < len(chosen) / 2
    expressions = [target.removeprefix("re:") for target in targets[1:]]
    matched = [module for module in modules if any(re.match(expression, module) for expression in expressions)]
    assert matched == chosen


def test_fused_layers_must_share_a_format(tmp_path: Path) -> None:
    int4, int8 = formats.by_name("int4-g32"), formats.by_name("int8")

    def outputs(**chosen: Format | None) -> list[OutputTensor]:
        return [OutputTensor(f"model.layers.0.x.{n}.weight", (64, 64), f, "BF16") for n, f in chosen.items()]

    assert (
        fusion_conflict(outputs(q_proj=int4, k_proj=int4, v_proj=int4, o_proj=int8, gate_proj=int8, up_proj=int8))
        is None
    )
    for chosen in (
        {"q_proj": int4, "v_proj": int8},
        {"gate_proj": int4, "up_proj": None},
        {"experts.0.w1": int4, "experts.3.w2": int8},
    ):
        conflict = fusion_conflict(outputs(**chosen))
        assert conflict is not None
        assert "together" in conflict
    with pytest.raises(UnsupportedError, match="together"):
        CompressedTensors().create(tmp_path / "out", source(tmp_path / "model"), outputs(q_proj=int4, k_proj=int8))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "shape", "fmt"),
    [
        ("lm_head.weight", (64, 64), "int4-g32"),
        ("model.embed_tokens.weight", (64, 64), "int8"),
        ("model.layers.0.mlp.gate.weight", (64, 64), "int8"),
        ("model.layers.0.input_layernorm.weight", (64, 64), "int8"),
        ("model.layers.0.mlp.down_proj.weight", (64, 100), "int4-g32"),
        ("model.layers.0.mlp.experts", (64, 64), "int4-g32"),
        ("model.layers.0.mlp.experts.weight", (4, 64, 64), "int4-g32"),
        ("model.layers.0.mlp.down_proj.weight", (64, 256), "q4_k"),
        ("model.layers.0.mlp.down_proj.weight", (64, 256), "nf4"),
    ],
)
def test_what_engines_would_not_load_is_refused(name: str, shape: tuple[int, ...], fmt: str) -> None:
    refusal = CompressedTensors().refusal(OutputTensor(name, shape, formats.by_name(fmt), "BF16"))
    assert refusal is not None
    assert CONTAINERS["compressed-tensors"].refusal(OutputTensor(name, shape, None, "BF16")) is None


def test_slices_that_would_split_words_or_blocks_are_refused(tmp_path: Path) -> None:
    checkpoint = source(tmp_path / "model")
    name = "model.layers.0.mlp.down_proj.weight"
    weight = read_float32(checkpoint, name)
    for fmt, start in ((formats.by_name("int4-g32-asym"), 8), (formats.by_name("fp8-block"), 64)):
        writer = CompressedTensors().create(
            tmp_path / "out", checkpoint, [OutputTensor(name, (ROWS, COLUMNS), fmt, "")]
        )
        with pytest.raises(UsageError, match="rows"):
            writer.write(name, start, formats.encode(weight[start:], fmt))
        writer.abandon()


def test_values_in_another_format_than_declared_are_refused(tmp_path: Path) -> None:
    checkpoint = source(tmp_path / "model")
    name = "model.layers.0.mlp.down_proj.weight"
    fmt = formats.by_name("int4-g32")
    writer = CompressedTensors().create(tmp_path / "out", checkpoint, [OutputTensor(name, (ROWS, COLUMNS), fmt, "")])
    weight = read_float32(checkpoint, name)
    for values in (formats.encode(weight, formats.by_name("int4-g64")), weight):
        with pytest.raises(UsageError, match="declared"):
            writer.write(name, 0, values)
    writer.abandon()


def test_the_section_is_the_same_each_time() -> None:
    chosen = {f"m{i}": formats.by_name(name) for i, name in enumerate(NAMES)}
    first = json.dumps(quantization_section(chosen, ["lm_head"]))
    assert json.dumps(quantization_section(dict(chosen), ["lm_head"])) == first
