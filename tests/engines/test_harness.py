"""The harness itself: engines that share no code must agree on a model that none of us wrote.

Nothing of halfpint takes part. The model is a tiny random Llama, written as a folder by transformers and as a
GGUF file by the gguf package; what llama.cpp, transformers and vLLM compute from it must be the same.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from engines.environment import EngineMissingError, engine_python
from engines.llama_cpp import LlamaCpp
from engines.process import EngineCrashedError, EngineError, EngineProcess
from engines.transformers_engine import TransformersEngine
from engines.vllm_engine import VllmEngine

pytestmark = pytest.mark.engine

TEXT = "Big models, poured into small glasses: für 12 Gläser, naïvely."

# ggml type -> root-mean-square error of normal weights of deviation 1.
ERRORS = {
    "Q8_0": 0.0055,
    "Q6_K": 0.0179,
    "Q5_0": 0.0440,
    "Q5_1": 0.0381,
    "Q5_K": 0.0366,
    "Q4_0": 0.0874,
    "Q4_1": 0.0809,
    "Q4_K": 0.0727,
    "IQ4_NL": 0.0752,
    "IQ4_XS": 0.0758,
    "Q3_K": 0.151,
    "Q2_K": 0.302,
}


@dataclass(frozen=True, slots=True)
class Tiny:
    """One model as a folder of safetensors and as a GGUF file in F32, with some tokens for it."""

    folder: Path
    gguf: Path
    token_ids: np.ndarray


@pytest.fixture(scope="session")
def maker() -> Iterator[EngineProcess]:
    """Run `tiny_llama_worker.py`."""
    try:
        python = engine_python("transformers")
    except EngineMissingError as error:
        pytest.skip(str(error))
    with EngineProcess("tiny_llama_worker", python=python) as process:
        yield process


def make_tiny(maker: EngineProcess, parent: Path, dtype: str) -> Tiny:
    """Make the model with weights that fit `dtype`."""
    text = "\n".join(path.read_text() for path in sorted(Path(__file__).parent.glob("*.py")))
    tiny = Tiny(parent / "model", parent / "model.gguf", np.random.default_rng(0).integers(2, 512, 24))
    maker.call("make", folder=str(tiny.folder), gguf_path=str(tiny.gguf), text=text, dtype=dtype)
    return tiny


@pytest.fixture(scope="session")
def tiny(maker: EngineProcess, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """The model in float32."""
    return make_tiny(maker, tmp_path_factory.mktemp("float32"), "float32")


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest difference relative to the largest value."""
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def test_llama_cpp_computes_the_logits_of_transformers(
    llama_cpp: LlamaCpp, transformers_engine: TransformersEngine, tiny: Tiny
) -> None:
    expected = transformers_engine.logits(tiny.folder, tiny.token_ids)
    assert expected.shape == (24, 512)
    assert relative_error(llama_cpp.logits(tiny.gguf, tiny.token_ids), expected) < 5e-5
    assert relative_error(llama_cpp.logits(tiny.gguf, tiny.token_ids, cache_type="F16"), expected) < 2e-3


def test_logits_of_more_tokens_than_a_batch_come_in_order(llama_cpp: LlamaCpp, tiny: Tiny) -> None:
    token_ids = np.resize(tiny.token_ids, 530)
    logits = llama_cpp.logits(tiny.gguf, token_ids)
    assert logits.shape == (530, 512)
    assert relative_error(llama_cpp.logits(tiny.gguf, token_ids[:520])[515:], logits[515:520]) < 5e-5


def test_generation_agrees(llama_cpp: LlamaCpp, transformers_engine: TransformersEngine, tiny: Tiny) -> None:
    expected = transformers_engine.generate(tiny.folder, tiny.token_ids, 8)
    generated = llama_cpp.generate(tiny.gguf, tiny.token_ids, 8, cache_type="F32")
    assert generated.ids.tolist() == expected.tolist()
    assert generated.prompt_seconds > 0
    assert generated.generation_seconds > 0


def test_transformers_reads_a_gguf_file(transformers_engine: TransformersEngine, tiny: Tiny) -> None:
    expected = transformers_engine.logits(tiny.folder, tiny.token_ids)
    assert relative_error(transformers_engine.logits(tiny.gguf, tiny.token_ids), expected) < 5e-5


def test_tokenizers_agree(llama_cpp: LlamaCpp, transformers_engine: TransformersEngine, tiny: Tiny) -> None:
    ids = llama_cpp.tokenize(tiny.gguf, TEXT, add_special=False)
    assert ids.tolist() == transformers_engine.tokenize(tiny.folder, TEXT, add_special=False).tolist()
    assert llama_cpp.tokenize(tiny.gguf, "</s>", parse_special=True).tolist() == [1]
    assert llama_cpp.n_vocab(tiny.gguf) == 512


def test_perplexity_is_that_of_the_logits(llama_cpp: LlamaCpp, tiny: Tiny) -> None:
    logits = llama_cpp.logits(tiny.gguf, tiny.token_ids)[:-1].astype(np.float64)
    likelihoods = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    chosen = likelihoods[np.arange(23), tiny.token_ids[1:]]
    assert llama_cpp.perplexity(tiny.gguf, tiny.token_ids) == pytest.approx(np.exp(-np.log(chosen).mean()))


@pytest.mark.parametrize("type_name", ["Q8_0", "Q4_0", "Q4_K_M", "Q2_K", "IQ4_XS"])
def test_llama_cpp_runs_what_it_quantized(
    llama_cpp: LlamaCpp, transformers_engine: TransformersEngine, tiny: Tiny, tmp_path: Path, type_name: str
) -> None:
    """The same file dequantized by transformers differs by the rounding of activations only."""
    target = tmp_path / f"{type_name}.gguf"
    llama_cpp.quantize_file(tiny.gguf, target, type_name)
    assert target.stat().st_size < 0.4 * tiny.gguf.stat().st_size
    expected = transformers_engine.logits(target, tiny.token_ids)
    assert relative_error(llama_cpp.logits(target, tiny.token_ids), expected) < 0.1


@pytest.mark.parametrize("type_name", ERRORS)
def test_rows_come_back_as_near_as_their_type_allows(llama_cpp: LlamaCpp, maker: EngineProcess, type_name: str) -> None:
    weights = np.random.default_rng(1).standard_normal((8, 512)).astype(np.float32)
    data = llama_cpp.quantize_rows(type_name, weights)
    decoded = llama_cpp.dequantize(type_name, data, (8, 512))
    assert np.sqrt(np.mean((decoded - weights) ** 2)) == pytest.approx(ERRORS[type_name], rel=0.02)
    arrays = {"data": np.frombuffer(data, dtype=np.uint8)}
    other = maker.call("gguf_dequantize", arrays=arrays, type_name=type_name, rows=8)["weights"]
    np.testing.assert_allclose(other, decoded, rtol=0, atol=1e-6)


def test_importance_shifts_the_error_to_where_it_does_not_matter(llama_cpp: LlamaCpp) -> None:
    weights = np.random.default_rng(2).standard_normal((16, 256)).astype(np.float32)
    importance = np.where(np.arange(256) % 8 == 0, 100.0, 1.0).astype(np.float32)
    errors = []
    for given in (None, importance):
        decoded = llama_cpp.dequantize("Q3_K", llama_cpp.quantize_rows("Q3_K", weights, given), (16, 256))
        errors.append(float(((decoded - weights) ** 2 * importance).mean()))
    assert errors[1] < 0.8 * errors[0]


def test_a_file_quantized_with_importance_holds_the_blocks_of_its_rows(
    llama_cpp: LlamaCpp, tiny: Tiny, tmp_path: Path
) -> None:
    """The whole way of importance, names included: the bytes of one tensor are found in the file."""
    generator = np.random.default_rng(3)
    name = "blk.1.ffn_down.weight"
    importance = {name: generator.uniform(0.1, 10, 768).astype(np.float32)}
    target = tmp_path / "q4_k.gguf"
    llama_cpp.quantize_file(tiny.gguf, target, "Q4_K_S", importance=importance, pure=True)
    gguf = pytest.importorskip("gguf")
    source = {tensor.name: tensor.data for tensor in gguf.GGUFReader(tiny.gguf).tensors}[name]
    assert llama_cpp.quantize_rows("Q4_K", source, importance[name]) in target.read_bytes()
    assert llama_cpp.quantize_rows("Q4_K", source) not in target.read_bytes()


def test_types_of_single_tensors_can_be_chosen(llama_cpp: LlamaCpp, tiny: Tiny, tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    target = tmp_path / "mixed.gguf"
    llama_cpp.quantize_file(
        tiny.gguf,
        target,
        "Q4_0",
        tensor_types={r"blk\.0\.attn_v": "Q8_0"},
        embedding_type="Q5_1",
        output_type="F16",
    )
    types = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(target).tensors}
    assert types["blk.0.attn_v.weight"] == "Q8_0"
    assert types["blk.1.attn_v.weight"] == "Q4_0"
    assert types["token_embd.weight"] == "Q5_1"
    assert types["output.weight"] == "F16"


def test_a_broken_file_is_an_error_with_the_engine_s_own_words(llama_cpp: LlamaCpp, tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(EngineError, match="gguf"):
        llama_cpp.logits(broken, np.array([1, 2]))


def test_a_crash_is_an_error_and_the_next_call_works(llama_cpp: LlamaCpp, tiny: Tiny) -> None:
    with pytest.raises(EngineCrashedError, match="SIG"):
        llama_cpp.logits(tiny.gguf, tiny.token_ids, cache_type="I8")
    assert llama_cpp.n_vocab(tiny.gguf) == 512


@pytest.fixture(scope="session")
def compressed(maker: EngineProcess, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """The model, beside it with 4-bit linear layers packed by compressed-tensors, and with what they decode to.

    In float32: from 16-bit scales transformers would compute a product in 16 bits by one way of loading, and in
    32 bits by the other.
    """
    parent = tmp_path_factory.mktemp("compressed")
    tiny = make_tiny(maker, parent, "float32")
    maker.call("compress", folder=str(tiny.folder), packed=str(parent / "packed"), decoded=str(parent / "decoded"))
    return tiny


@pytest.mark.parametrize("dequantize", [False, True])
def test_transformers_runs_a_compressed_folder(
    transformers_engine: TransformersEngine, compressed: Tiny, dequantize: bool
) -> None:
    parent = compressed.folder.parent
    expected = transformers_engine.logits(parent / "decoded", compressed.token_ids)
    found = transformers_engine.logits(parent / "packed", compressed.token_ids, dequantize=dequantize)
    assert relative_error(found, expected) < 1e-6
    original = transformers_engine.logits(compressed.folder, compressed.token_ids)
    assert 0.01 < relative_error(found, original) < 0.5


def test_a_folder_without_some_tensor_is_an_error(
    transformers_engine: TransformersEngine, maker: EngineProcess, tmp_path: Path
) -> None:
    tiny = make_tiny(maker, tmp_path, "float32")
    maker.call("drop_tensor", folder=str(tiny.folder), name="model.layers.1.mlp.up_proj.weight")
    with pytest.raises(EngineError, match=r"random numbers.*layers\.1\.mlp\.up_proj"):
        transformers_engine.logits(tiny.folder, tiny.token_ids)


@pytest.mark.slow
def test_vllm_runs_a_compressed_folder_packed(
    vllm_engine: VllmEngine, transformers_engine: TransformersEngine, compressed: Tiny
) -> None:
    logits = transformers_engine.logits(compressed.folder.parent / "decoded", compressed.token_ids)
    answer = vllm_engine.run(compressed.folder.parent / "packed", compressed.token_ids, count=2)
    # Of 512 nearly equal tokens: the likeliest must be one of the likeliest here too.
    ranks = (logits > np.take_along_axis(logits, answer.top_ids[:24, :1], axis=1)).sum(axis=1)
    assert ranks.max() < 5
    packed = [line for line in answer.kernels if "_proj" in line]
    assert len(packed) == 8
    assert all("CPUWNA16" in line for line in packed)


@pytest.mark.slow
def test_vllm_agrees(
    vllm_engine: VllmEngine, transformers_engine: TransformersEngine, maker: EngineProcess, tmp_path: Path
) -> None:
    tiny = make_tiny(maker, tmp_path, "bfloat16")
    logits = transformers_engine.logits(tiny.folder, tiny.token_ids).astype(np.float64)
    expected = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    answer = vllm_engine.run(tiny.folder, tiny.token_ids, count=4, top=512)
    assert answer.ids.tolist() == transformers_engine.generate(tiny.folder, tiny.token_ids, 4).tolist()
    assert answer.top_ids.shape == (24 + 4 - 1, 512)
    found = np.empty((24, 512))
    np.put_along_axis(found, answer.top_ids[:24], answer.top_log_probabilities[:24], axis=1)
    assert np.abs(found - expected).max() < 0.2  # bfloat16 keeps 8 bits
    assert any("down_proj" in line for line in answer.kernels)
