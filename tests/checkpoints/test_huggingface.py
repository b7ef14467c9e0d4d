"""Hugging Face folders: sharded or not, 8-bit floats included; hostile ones end in our error."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from json_cases import HOSTILE
from small_folders import INDEX, arrays, folder, save

from halfpint import formats
from halfpint.checkpoints import open_checkpoint, read_float32
from halfpint.checkpoints.checkpoint import Checkpoint, OutputTensor
from halfpint.checkpoints.huggingface import HuggingFace
from halfpint.errors import CheckpointError, UnsupportedError, UsageError, VerificationError
from halfpint.tensors import QuantizedTensor

WORKER = Path(__file__).with_name("hostile_worker.py")


def names(path: Path) -> list[str]:
    return sorted(child.name for child in path.iterdir())


def copies(checkpoint: Checkpoint) -> list[OutputTensor]:
    return [OutputTensor(name, spec.shape, spec.format, spec.dtype) for name, spec in checkpoint.tensors.items()]


def in_reach(array: np.ndarray) -> np.ndarray:
    """F64 is read as float32."""
    return array.astype(np.float32) if array.dtype == np.float64 else array


@pytest.mark.parametrize("shards", [1, 3])
def test_tensors_read_as_they_were_stored_whatever_the_shards(shards: int, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(folder(tmp_path / "model", shards=shards))
    assert checkpoint.container == "huggingface"
    assert checkpoint.config == {"model_type": "llama"}
    assert set(checkpoint.tensors) == set(arrays())
    for name, array in arrays().items():
        spec = checkpoint.tensors[name]
        assert (spec.shape, spec.nbytes) == (array.shape, array.nbytes)
        read = in_reach(array)
        assert checkpoint.read(name).tobytes() == read.tobytes()
        if array.ndim > 1:
            assert checkpoint.read(name, 0, len(array) // 2).tobytes() == read[: len(array) // 2].tobytes()
    assert checkpoint.weight_bytes == sum(path.stat().st_size for path in checkpoint.path.glob("*.safetensors"))
    assert read_float32(checkpoint, "model.double").dtype == np.float32
    with pytest.raises(UsageError, match="int64"):
        read_float32(checkpoint, "model.rotary.steps")
    with pytest.raises(UsageError, match="rows"):
        checkpoint.read("model.norm.weight", 3, 17)
    checkpoint.close()
    with pytest.raises(CheckpointError, match="closed"):
        checkpoint.read("model.norm.weight")


def test_a_bare_file_is_a_checkpoint_without_configuration(tmp_path: Path) -> None:
    save(tmp_path / "any.safetensors", arrays())
    checkpoint = open_checkpoint(tmp_path / "any.safetensors")
    assert checkpoint.config == {}
    assert set(checkpoint.tensors) == set(arrays())


def test_a_folder_with_one_file_of_another_name_is_read(tmp_path: Path) -> None:
    path = folder(tmp_path / "model")
    (path / "model.safetensors").rename(path / "weights.safetensors")
    assert set(open_checkpoint(path).tensors) == set(arrays())
    save(path / "more.safetensors", {})
    with pytest.raises(CheckpointError, match="name the file"):
        open_checkpoint(path)


def test_a_hub_cache_of_links_is_read_and_its_side_files_are_copied(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--a--b" / "snapshots" / "0123"
    snapshot.parent.mkdir(parents=True)
    folder(snapshot, shards=2)
    (snapshot / "tokenizer.json").write_text("{}")
    blobs = tmp_path / "models--a--b" / "blobs"
    blobs.mkdir()
    for path in list(snapshot.iterdir()):
        path.rename(blobs / f"hash-{path.name}")
        path.symlink_to(Path("..") / ".." / "blobs" / f"hash-{path.name}")
    checkpoint = open_checkpoint(snapshot)
    assert set(checkpoint.tensors) == set(arrays())
    writer = HuggingFace().create(tmp_path / "out", checkpoint, [])
    assert (writer.finish() / "tokenizer.json").read_text() == "{}"
    assert not (tmp_path / "out" / "tokenizer.json").is_symlink()


@pytest.mark.parametrize("shard_bytes", [5_000_000_000, 2_000, 1])
def test_what_is_written_reads_back_and_the_size_is_known_before(shard_bytes: int, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(folder(tmp_path / "model"))
    container = HuggingFace(shard_bytes)
    outputs = copies(checkpoint)
    writer = container.create(tmp_path / "out", checkpoint, outputs)
    for tensor in reversed(outputs):
        rows = tensor.shape[0] if tensor.shape else 1
        for start in reversed(range(0, rows, 5)) if tensor.shape else (0,):
            end = min(rows, start + 5)
            writer.write(tensor.name, start, checkpoint.read(tensor.name, start, end))
    assert writer.finish() == tmp_path / "out"
    result = open_checkpoint(tmp_path / "out")
    assert result.config == checkpoint.config
    assert result.weight_bytes == container.size(checkpoint, outputs)
    assert set(result.tensors) == set(arrays())
    for name, array in arrays().items():
        assert result.read(name).tobytes() == in_reach(array).tobytes()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_weights_in_another_float_are_written_and_the_configuration_says_so(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(folder(tmp_path / "model", config={"torch_dtype": "float32", "a": 1}))
    bf16 = formats.by_name("bf16")
    outputs = [OutputTensor("model.layers.0.mlp.up_proj.weight", (24, 16), bf16, "F16")]
    weight = read_float32(checkpoint, "model.layers.0.mlp.up_proj.weight")
    writer = HuggingFace().create(tmp_path / "out", checkpoint, outputs)
    writer.write(outputs[0].name, 8, formats.encode(weight[8:], bf16))
    writer.write(outputs[0].name, 0, weight[:8].astype(ml_dtypes.bfloat16))
    result = open_checkpoint(writer.finish())
    assert result.read(outputs[0].name).tobytes() == weight.astype(ml_dtypes.bfloat16).tobytes()
    assert list(result.config.items()) == [("torch_dtype", "bfloat16"), ("a", 1)]


def test_a_vector_in_a_plain_format_may_come_as_a_row(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(folder(tmp_path / "model"))
    f32 = formats.by_name("f32")
    writer = HuggingFace().create(tmp_path / "out", checkpoint, [OutputTensor("model.norm.weight", (16,), f32, "F32")])
    row = read_float32(checkpoint, "model.norm.weight").reshape(1, 16)
    writer.write("model.norm.weight", 0, formats.encode(row, f32))
    assert np.array_equal(open_checkpoint(writer.finish()).read("model.norm.weight"), row[0])


def test_an_unfinished_output_is_refused_and_an_abandoned_one_leaves_nothing(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(folder(tmp_path / "model"))
    writer = HuggingFace().create(tmp_path / "out", checkpoint, copies(checkpoint))
    writer.write("model.norm.weight", 0, checkpoint.read("model.norm.weight", 0, 8))
    with pytest.raises(UsageError, match="twice"):
        writer.write("model.norm.weight", 7, checkpoint.read("model.norm.weight", 7, 9))
    with pytest.raises(UsageError, match="declared"):
        writer.write("model.other", 0, np.zeros(3, np.float32))
    with pytest.raises(UsageError, match="declared F32"):
        writer.write("model.norm.weight", 8, np.zeros(8, np.float16))
    with pytest.raises(VerificationError, match="not written"):
        writer.finish()
    writer.abandon()
    assert names(tmp_path) == ["model"]


@pytest.mark.parametrize("target", ["model", "model/out"])
def test_the_source_is_never_written_into(target: str, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(folder(tmp_path / "model"))
    before = names(tmp_path / "model")
    with pytest.raises(UsageError, match="source"):
        HuggingFace().create(tmp_path / target, checkpoint, [])
    assert names(tmp_path / "model") == before


def test_formats_that_need_another_container_are_refused_with_advice() -> None:
    assert HuggingFace().refusal(OutputTensor("a", (4, 32), formats.by_name("q8_0"), "F32")) is not None
    assert HuggingFace().refusal(OutputTensor("a", (4, 32), None, "Q8_0")) is not None
    assert HuggingFace().refusal(OutputTensor("a", (4, 32), None, "I64")) is None


def test_side_files_are_copied_byte_for_byte_and_programs_and_pickles_are_not(tmp_path: Path) -> None:
    source = folder(tmp_path / "model", config={"auto_map": {"AutoModel": "modeling_x.X"}, "model_type": "x"})
    wanted = ["LICENSE", "README.md", "chat_template.jinja", "generation_config.json", "merges.txt", "tokenizer.json"]
    wanted += ["tokenizer.model", "qwen.tiktoken"]
    unwanted = ["modeling_x.py", "tokenizer.py", "rng.pt", "tokenizer.pkl", "optimizer.bin", ".gitattributes", "run.sh"]
    unwanted += ["quantize_config.json", "pytorch_model.bin.index.json"]
    for name in wanted + unwanted:
        (source / name).write_bytes(f"\r\n {name}".encode())
    result = HuggingFace().create(tmp_path / "out", open_checkpoint(source), []).finish()
    for name in wanted:
        assert (result / name).read_bytes() == f"\r\n {name}".encode()
    assert names(result) == sorted([*wanted, "config.json", "model.safetensors"])
    assert json.loads((result / "config.json").read_text()) == {"model_type": "x"}


def test_a_side_file_that_leads_out_of_the_folder_is_not_published(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("key")
    source = folder(tmp_path / "model")
    (source / "tokenizer.json").symlink_to("../secret")
    with pytest.raises(CheckpointError, match="outside"):
        HuggingFace().create(tmp_path / "out", open_checkpoint(source), [])
    assert names(tmp_path) == ["model", "secret"]


@pytest.mark.parametrize("scale_dtype", [np.float32, ml_dtypes.bfloat16])
def test_blocks_of_8_bit_floats_are_one_tensor(scale_dtype: type, tmp_path: Path) -> None:
    generator = np.random.default_rng(3)
    codes = generator.normal(size=(300, 200)).astype(ml_dtypes.float8_e4m3fn)
    scales = generator.uniform(0.5, 2, size=(3, 2)).astype(scale_dtype)
    path = tmp_path / "model"
    path.mkdir()
    config = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}
    (path / "config.json").write_text(json.dumps(config))
    save(
        path / "model.safetensors", {"a.weight": codes, "a.weight_scale_inv": scales, "a.bias": np.zeros(3, np.float32)}
    )
    checkpoint = open_checkpoint(path)
    assert set(checkpoint.tensors) == {"a.weight", "a.bias"}
    assert checkpoint.tensors["a.weight"].nbytes == codes.nbytes + scales.nbytes
    spread = np.repeat(np.repeat(scales.astype(np.float32), 128, 0), 128, 1)[:300, :200]
    expected = codes.astype(np.float32) * spread
    assert np.array_equal(read_float32(checkpoint, "a.weight"), expected)
    assert np.array_equal(read_float32(checkpoint, "a.weight", 128, 300), expected[128:])
    with pytest.raises(UsageError, match="blocks of 128"):
        checkpoint.read("a.weight", 64, 128)


@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (6, 1), (6,)])
def test_8_bit_floats_with_a_scale_per_row_or_for_all(shape: tuple[int, ...], tmp_path: Path) -> None:
    generator = np.random.default_rng(4)
    codes = generator.normal(size=(6, 260)).astype(ml_dtypes.float8_e4m3fn)
    scales = generator.uniform(0.5, 2, size=shape).astype(np.float32)
    save(tmp_path / "m.safetensors", {"a.weight": codes, "a.weight_scale": scales})
    checkpoint = open_checkpoint(tmp_path / "m.safetensors")
    column = scales.reshape(-1, 1) if scales.size > 1 else scales.reshape(1, 1)
    expected = codes.astype(np.float32) * column
    assert np.array_equal(read_float32(checkpoint, "a.weight"), expected)
    part = checkpoint.read("a.weight", 2, 5)
    assert isinstance(part, QuantizedTensor)
    assert np.array_equal(formats.decode(part), expected[2:5])


def test_a_scale_of_a_strange_shape_is_an_error(tmp_path: Path) -> None:
    codes = np.zeros((6, 260), ml_dtypes.float8_e4m3fn)
    save(tmp_path / "m.safetensors", {"a.weight": codes, "a.weight_scale": np.ones((2, 3), np.float32)})
    with pytest.raises(CheckpointError, match=r"a\.weight_scale"):
        open_checkpoint(tmp_path / "m.safetensors")


@pytest.mark.parametrize(
    "section",
    [
        {"quant_method": "gptq", "bits": 4},
        {"quant_method": "awq"},
        {"quant_method": "bitsandbytes", "load_in_4bit": True},
        {"load_in_8bit": True},
        {"quant_method": "hqq"},
        {"quant_method": "fp8", "weight_block_size": [64, 64]},
        {"quant_method": 3},
        {},
    ],
)
def test_quantization_that_is_not_read_is_named(section: dict[str, object], tmp_path: Path) -> None:
    path = folder(tmp_path / "model", config={"quantization_config": section})
    with pytest.raises(UnsupportedError, match="not read"):
        open_checkpoint(path)


def test_hostile_json_keeps_within_two_seconds_and_200_megabytes(tmp_path: Path) -> None:
    for place, shards in (("config.json", 1), (INDEX, 2)):
        for number, text in enumerate(HOSTILE.values()):
            path = folder(tmp_path / f"{place[0]}{number:03}", shards=shards)
            (path / place).write_bytes(text)
    done = subprocess.run([sys.executable, str(WORKER), str(tmp_path)], capture_output=True, check=False, text=True)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == 2 * len(HOSTILE), done.stderr[-800:]
    assert not [answer for answer in answers if answer["error"] != "CheckpointError"]


class Canary:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, int]]:
        return os.mkdir, (str(self.path), 0o700)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.ckpt", "weights.pth", "model.pkl"])
@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_a_pickle_is_refused_with_advice_and_never_run(name: str, protocol: int, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    path = tmp_path / "model"
    path.mkdir()
    (path / "config.json").write_text("{}")
    (path / name).write_bytes(pickle.dumps(Canary(canary), protocol))
    for given in (path, path / name):
        with pytest.raises(UnsupportedError, match="safe_serialization"):
            open_checkpoint(given)
    (path / name).rename(path / "model.safetensors")
    with pytest.raises(CheckpointError):
        open_checkpoint(path)
    assert not canary.exists()


def test_a_configuration_that_asks_for_programs_is_only_read(tmp_path: Path) -> None:
    config = {
        "model_type": "llama",
        "auto_map": {"AutoConfig": "evil--configuration.Evil", "AutoModelForCausalLM": "evil.Evil"},
        "trust_remote_code": True,
        "custom_pipelines": {"x": {"impl": "evil.Evil"}},
    }
    path = folder(tmp_path / "model", config=config)
    (path / "evil.py").write_text(f"import os; os.mkdir({str(tmp_path / 'canary')!r})")
    (path / "configuration.py").write_text((path / "evil.py").read_text())
    before = set(sys.modules)
    checkpoint = open_checkpoint(path)
    HuggingFace().create(tmp_path / "out", checkpoint, []).finish()
    assert not (tmp_path / "canary").exists()
    assert not {name for name in set(sys.modules) - before if "evil" in name or name == "configuration"}


@pytest.mark.parametrize("kind", ["empty folder", "text file", "missing"])
def test_what_is_no_checkpoint_is_told(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "thing"
    if kind == "empty folder":
        path.mkdir()
    elif kind == "text file":
        path.write_text("hello")
    with pytest.raises(CheckpointError, match=r"no checkpoint|does not exist"):
        open_checkpoint(path)
