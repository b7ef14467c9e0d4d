"""GGUF written and read back: names, row orders, blocks, metadata and sizes, for every family."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import gguf_bytes as g
import tiny_models
from gguf_bytes import SOUND
from halfpint import formats
from halfpint.checkpoints import open_checkpoint, read_float32
from halfpint.checkpoints.checkpoint import Checkpoint, OutputTensor
from halfpint.checkpoints.gguf import GGUF
from halfpint.checkpoints.gguf_reader import GgufCheckpoint
from halfpint.checkpoints.gguf_types import TYPES, file_type
from halfpint.checkpoints.gguf_writer import GgufWriter
from halfpint.errors import CheckpointError, UnsupportedError, UsageError, VerificationError
from halfpint.tensors import Array, QuantizedTensor

SIZED_FORMATS = ("q8_0", "q4_0", "q5_1", "iq4_nl")  # 128 columns: no whole blocks of 256


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One tiny Hugging Face folder of every family."""
    made = {}
    for family in tiny_models.FAMILIES:
        made[family] = tmp_path_factory.mktemp(family) / "model"
        tiny_models.save_tiny(family, made[family])
    return made


def outputs_for(source: Checkpoint, matrix_format: str = "f32") -> list[OutputTensor]:
    """Matrices in a format (routers in f32, the formats in turn for `mixed`), vectors in f32."""
    turn = itertools.cycle(SIZED_FORMATS)
    outputs = []
    for name, spec in source.tensors.items():
        plain = len(spec.shape) != 2 or ".mlp.gate." in name or "block_sparse_moe.gate." in name
        chosen = next(turn) if matrix_format == "mixed" and "experts" not in name else matrix_format
        chosen = "q8_0" if chosen == "mixed" else chosen
        outputs.append(OutputTensor(name, spec.shape, formats.by_name("f32" if plain else chosen), spec.dtype))
    return outputs


def values_of(source: Checkpoint, output: OutputTensor) -> Array | QuantizedTensor:
    values = source.read(output.name)
    assert isinstance(values, np.ndarray)
    if output.format is None or output.format.name == "f32":
        return values
    return formats.encode(values.astype(np.float32), output.format)


def rows_of(values: Array | QuantizedTensor, start: int, end: int) -> Array | QuantizedTensor:
    if isinstance(values, QuantizedTensor):
        parts = {name: part[start:end] for name, part in values.parts.items()}
        return QuantizedTensor(values.format, (end - start, values.shape[1]), parts)
    return values[start:end]


def write(target: Path, source: Checkpoint, outputs: list[OutputTensor], seed: int = 0) -> Path:
    """Write all rows, cut and ordered at random."""
    generator = np.random.default_rng(seed)
    writer = GGUF.create(target, source, outputs)
    for index in generator.permutation(len(outputs)):
        output = outputs[index]
        values = values_of(source, output)
        cuts = sorted({0, output.shape[0], *generator.integers(0, output.shape[0], 3).tolist()})
        spans = list(itertools.pairwise(cuts))
        for span in generator.permutation(len(spans)):
            start, end = spans[span]
            writer.write(output.name, start, rows_of(values, start, end))
    return writer.finish()


def same(left: Array | QuantizedTensor, right: Array | QuantizedTensor) -> bool:
    if isinstance(left, QuantizedTensor) and isinstance(right, QuantizedTensor):
        return left.format == right.format and np.array_equal(left.parts["blocks"], right.parts["blocks"])
    assert isinstance(left, np.ndarray)
    assert isinstance(right, np.ndarray)
    # A norm that is stored with one added comes back rounded to float32 at that size.
    return np.allclose(left, right, rtol=0, atol=2**-23 * 2)


@pytest.fixture
def opened(folders: dict[str, Path]) -> Iterator[dict[str, Checkpoint]]:
    sources = {family: open_checkpoint(folder) for family, folder in folders.items()}
    yield sources
    for source in sources.values():
        source.close()


@pytest.mark.parametrize("family", tiny_models.FAMILIES)
@pytest.mark.parametrize("matrix_format", ["f32", "mixed"])
def test_what_is_written_reads_back(
    family: str, matrix_format: str, opened: dict[str, Checkpoint], tmp_path: Path
) -> None:
    source = opened[family]
    outputs = outputs_for(source, matrix_format)
    path = write(tmp_path / "model.gguf", source, outputs)
    assert path.stat().st_size == GGUF.size(source, outputs)
    result = open_checkpoint(path)
    assert result.container == "gguf"
    assert set(result.tensors) == {output.name for output in outputs}
    generator = np.random.default_rng(1)
    for output in outputs:
        meant = values_of(source, output)
        spec = result.tensors[output.name]
        assert (spec.shape, spec.format) == (output.shape, output.format)
        assert same(result.read(output.name), meant)
        start, end = sorted(generator.integers(0, output.shape[0] + 1, 2).tolist())
        assert same(result.read(output.name, start, end), rows_of(meant, start, end))
    result.close()


@pytest.mark.parametrize("family", ["gemma2", "gemma3_text", "llama"])
def test_the_writer_tells_what_will_be_read_back(family: str, opened: dict[str, Checkpoint], tmp_path: Path) -> None:
    outputs = outputs_for(opened[family])
    writer = GGUF.create(tmp_path / "model.gguf", opened[family], outputs)
    told = {o.name: writer.write(o.name, 0, values_of(opened[family], o)) for o in outputs}
    result = GGUF.open(writer.finish())
    for name, values in told.items():
        assert np.array_equal(np.asarray(result.read(name)), np.asarray(values))
    result.close()


@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_the_bytes_do_not_depend_on_the_order_of_writing(
    family: str, opened: dict[str, Checkpoint], tmp_path: Path
) -> None:
    outputs = outputs_for(opened[family], "mixed")
    first = write(tmp_path / "first.gguf", opened[family], outputs, seed=1)
    second = write(tmp_path / "second.gguf", opened[family], outputs[::-1], seed=2)
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_a_file_copied_from_a_file_is_the_same(family: str, opened: dict[str, Checkpoint], tmp_path: Path) -> None:
    first = write(tmp_path / "first.gguf", opened[family], outputs_for(opened[family], "mixed"))
    source = GGUF.open(first)
    outputs = [OutputTensor(spec.name, spec.shape, spec.format, spec.dtype) for spec in source.tensors.values()]
    writer = GGUF.create(tmp_path / "second.gguf", source, outputs)
    for output in outputs:
        writer.write(output.name, 0, source.read(output.name))
    second = GGUF.open(writer.finish())
    assert {key: value.plain for key, value in second.metadata.items()} == {
        key: value.plain for key, value in source.metadata.items()
    }
    assert second.config == source.config
    for output in outputs:
        assert same(second.read(output.name), source.read(output.name))
    if family not in ("gemma2", "gemma3_text"):  # their norms are rounded once more
        ours = sorted(first.read_bytes()[source.parts[0].header.data_start :])
        assert ours == sorted(second.path.read_bytes()[second.parts[0].header.data_start :])
    source.close()
    second.close()


def test_stretched_positions_are_configuration(tmp_path: Path) -> None:
    tiny_models.save_tiny("llama", tmp_path / "model")
    config_path = tmp_path / "model" / "config.json"
    config = json.loads(config_path.read_text())
    config.pop("rope_parameters", None)
    scaling = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    config["rope_scaling"] = {"rope_type": "llama3", "original_max_position_embeddings": 8192, **scaling}
    config_path.write_text(json.dumps(config))
    source = open_checkpoint(tmp_path / "model")
    first = GGUF.open(write(tmp_path / "first.gguf", source, outputs_for(source)))
    assert list(first.side_tensors) == ["rope_freqs.weight"]
    assert set(first.tensors) == set(source.tensors)
    assert scaling.items() <= first.config["rope_scaling"].items()
    outputs = [OutputTensor(spec.name, spec.shape, spec.format, spec.dtype) for spec in first.tensors.values()]
    writer = GGUF.create(tmp_path / "second.gguf", first, outputs)
    for output in outputs:
        writer.write(output.name, 0, first.read(output.name))
    second = GGUF.open(writer.finish())
    assert np.array_equal(second.side_tensors["rope_freqs.weight"], first.side_tensors["rope_freqs.weight"])
    for checkpoint in (source, first, second):
        checkpoint.close()


def test_the_official_reader_sees_the_same_weights(opened: dict[str, Checkpoint], tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    source = opened["llama"]
    path = write(tmp_path / "model.gguf", source, outputs_for(source, "q8_0"))
    theirs = {t.name: t for t in gguf.GGUFReader(path).tensors}
    for hf_name, gguf_name, permuted in [
        ("model.layers.1.self_attn.q_proj.weight", "blk.1.attn_q.weight", True),
        ("model.layers.1.self_attn.k_proj.weight", "blk.1.attn_k.weight", True),
        ("model.layers.1.self_attn.v_proj.weight", "blk.1.attn_v.weight", False),
        ("model.embed_tokens.weight", "token_embd.weight", False),
    ]:
        weight = formats.decode(formats.encode(source.read(hf_name), formats.by_name("q8_0")))
        if permuted:
            # Heads of 32: llama.cpp wants dimension i beside dimension i + 16.
            weight = weight.reshape(-1, 2, 16, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)
        values = gguf.quants.dequantize(theirs[gguf_name].data, theirs[gguf_name].tensor_type)
        assert np.array_equal(values, weight)


def toy(tmp_path: Path, **changes: object) -> GgufCheckpoint:
    path = tmp_path / "toy.gguf"
    path.write_bytes(SOUND.but(**changes).file())
    return GGUF.open(path)


def test_a_model_of_unknown_family_keeps_names_and_metadata(tmp_path: Path) -> None:
    more = (g.text_key("toy.motto", "pour"), g.array_key("toy.numbers", g.INT64, 2, bytes(range(16))))
    tensors = (g.tensor("cube", (32, 2, 3), g.Q8_0, 0), g.tensor("b", (3,), g.F32, 224))
    source = toy(tmp_path, keys=SOUND.keys + more, tensors=tensors, data=bytes(range(204)) + bytes(32))
    assert source.config == {}
    assert source.tensors["cube"].shape == (3, 2, 32)
    outputs = [OutputTensor(spec.name, spec.shape, spec.format, spec.dtype) for spec in source.tensors.values()]
    writer = GGUF.create(tmp_path / "copy.gguf", source, outputs)
    writer.write("cube", 1, source.read("cube", 1, 3))
    writer.write("cube", 0, source.read("cube", 0, 1))
    writer.write("b", 0, source.read("b"))
    copy = GGUF.open(writer.finish())
    for key in source.metadata:
        assert copy.metadata[key].encode() == source.metadata[key].encode()
    assert same(copy.read("cube"), source.read("cube"))
    copy.close()
    source.close()


def begin(tmp_path: Path) -> tuple[GgufCheckpoint, GgufWriter]:
    source = toy(tmp_path)
    outputs = [OutputTensor(spec.name, spec.shape, spec.format, spec.dtype) for spec in source.tensors.values()]
    return source, GGUF.create(tmp_path / "out.gguf", source, outputs)


def test_an_unfinished_file_never_appears(tmp_path: Path) -> None:
    source, writer = begin(tmp_path)
    writer.write("a", 0, source.read("a"))
    assert not (tmp_path / "out.gguf").exists()
    with pytest.raises(VerificationError, match="'b'"):
        writer.finish()
    writer.abandon()
    writer.abandon()
    assert [path.name for path in tmp_path.iterdir()] == ["toy.gguf"]
    with pytest.raises(UsageError):
        writer.write("b", 0, source.read("b"))
    source.close()


def test_rows_that_were_not_declared_so_are_refused(tmp_path: Path) -> None:
    source, writer = begin(tmp_path)
    whole = np.zeros((2, 4), np.float32)
    for name, start, values in [
        ("c", 0, whole),
        ("a", 0, whole.astype(np.float16)),
        ("a", 0, np.zeros((2, 5), np.float32)),
        ("a", 1, whole),
        ("a", -1, whole),
        ("a", 0, formats.encode(np.ones((2, 32), np.float32), formats.by_name("q8_0"))),
    ]:
        with pytest.raises(UsageError):
            writer.write(name, start, values)
    writer.write("a", 0, whole)
    with pytest.raises(UsageError, match="twice"):
        writer.write("a", 1, whole[:1])
    writer.abandon()
    source.close()


def test_the_source_is_never_overwritten(tmp_path: Path) -> None:
    source = toy(tmp_path)
    outputs = [OutputTensor(spec.name, spec.shape, spec.format, spec.dtype) for spec in source.tensors.values()]
    (tmp_path / "link.gguf").hardlink_to(source.path)
    for target in (source.path, tmp_path / "link.gguf"):
        with pytest.raises(UsageError, match="source"):
            GGUF.create(target, source, outputs, replace=True)
    (tmp_path / "there.gguf").write_text("mine")
    with pytest.raises(UsageError):
        GGUF.create(tmp_path / "there.gguf", source, outputs)
    writer = GGUF.create(tmp_path / "there.gguf", source, outputs, replace=True)
    assert (tmp_path / "there.gguf").read_text() == "mine"
    for output in outputs:
        writer.write(output.name, 0, source.read(output.name))
    writer.finish()
    open_checkpoint(tmp_path / "there.gguf").close()
    source.close()


@pytest.mark.parametrize(
    ("shape", "format_name", "dtype", "words"),
    [
        ((4,), "bf16", "BF16", "f32"),
        ((4,), "", "F16", "f32"),
        ((4, 48), "q4_0", "F32", "blocks of 32"),
        ((4, 64), "int4-g32", "F32", "cannot hold int4-g32"),
        ((4, 64), "", "F8_E4M3", "cannot hold F8_E4M3"),
        ((), "f32", "F32", "axes"),
        ((1, 1, 1, 1, 1), "f32", "F32", "axes"),
        ((0, 32), "q8_0", "F32", "no elements"),
    ],
)
def test_what_gguf_cannot_hold_is_refused(shape: tuple[int, ...], format_name: str, dtype: str, words: str) -> None:
    fmt = formats.by_name(format_name) if format_name else None
    reason = GGUF.refusal(OutputTensor("w", shape, fmt, dtype))
    assert reason is not None
    assert words in reason


def test_models_that_llama_cpp_could_not_load_are_refused(opened: dict[str, Checkpoint], tmp_path: Path) -> None:
    source = opened["llama"]
    outputs = outputs_for(source)
    with pytest.raises(CheckpointError, match="missing"):
        GGUF.create(tmp_path / "m.gguf", source, outputs[1:])
    with pytest.raises(UnsupportedError, match="no tensor extra"):
        GGUF.create(tmp_path / "m.gguf", source, [*outputs, OutputTensor("extra", (4, 4), outputs[0].format, "F32")])
    experts = outputs_for(opened["mixtral"], "q8_0")
    index = next(i for i, output in enumerate(experts) if "experts.1." in output.name)
    changed = experts[index]
    experts[index] = OutputTensor(changed.name, changed.shape, formats.by_name("q4_0"), changed.dtype)
    with pytest.raises(UnsupportedError, match="experts of a layer"):
        GGUF.create(tmp_path / "m.gguf", opened["mixtral"], experts)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("tensors", "number"),
    [
        ([], 0),
        ([("F32", 10)], 0),
        ([("F16", 10)], 1),
        ([("BF16", 10), ("F32", 3)], 32),
        ([("Q8_0", 10), ("F16", 3)], 7),
        ([("Q4_K", 10)], 14),
        ([("Q4_K", 10), ("Q6_K", 3)], 15),
        ([("Q5_K", 10), ("Q6_K", 3)], 17),
        ([("Q2_K", 10)], 21),
        ([("Q3_K", 10), ("Q5_K", 9)], 12),
        ([("Q6_K", 10)], 18),
        ([("IQ4_XS", 10), ("Q6_K", 1)], 30),
        ([("IQ2_XXS", 10)], 1024),
    ],
)
def test_the_file_type_is_that_of_most_weights(tensors: list[tuple[str, int]], number: int) -> None:
    by_name = {kind.name: kind for kind in TYPES.values()}
    assert file_type([(by_name[name], parameters) for name, parameters in tensors]) == number


def test_types_have_the_sizes_of_the_official_package() -> None:
    constants = pytest.importorskip("gguf.constants")
    for kind in TYPES.values():
        theirs = constants.GGMLQuantizationType(kind.type_id)
        assert theirs.name == kind.name
        assert constants.GGML_QUANT_SIZES[theirs] == (kind.block_columns, kind.block_bytes)


def test_files_of_the_official_writer_are_read(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "toy")
    metadata = {"texts": ["x", "é"], "integers": [1, 2, -3], "floats": [0.5, 1.5], "bools": [True, False]}
    for key, values in metadata.items():
        writer.add_array(f"toy.{key}", values)
    writer.add_uint64("toy.large", 1 << 63)
    generator = np.random.default_rng(0)
    tensors = {name: generator.normal(size=(3, 64)).astype(np.float32) for name in ("F32", "F16", "Q8_0", "Q5_1")}
    for name, values in tensors.items():
        kind = gguf.GGMLQuantizationType[name]
        writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    checkpoint = GGUF.open(tmp_path / "model.gguf")
    for key, values in metadata.items():
        assert checkpoint.metadata[f"toy.{key}"].plain == values
    assert checkpoint.metadata["toy.large"].plain == 1 << 63
    for name, values in tensors.items():
        kind = gguf.GGMLQuantizationType[name]
        expected = gguf.quants.dequantize(gguf.quants.quantize(values, kind), kind)
        assert checkpoint.tensors[name].dtype == name
        assert np.array_equal(read_float32(checkpoint, name), expected)
    checkpoint.close()
