"""The benchmark against llama.cpp: what both are told of the text is the same, and the files are of one size."""

from pathlib import Path

import numpy as np
import pytest

import halfpint
from calibration_text import windows_of
from engines.llama_cpp import LlamaCpp
from halfpint.calibration.dual_stream import calibrate
from halfpint.pipeline.options import CalibrationOptions
from llama_peer import importance, plain_gguf
from quality_against_peers import Bench
from scoring import Yardstick
from tiny_models import save_tiny

pytestmark = pytest.mark.engine
TEXT = CalibrationOptions(tokens=512)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("peers") / "tiny"
    save_tiny("llama", folder, hidden_size=256, intermediate_size=512, head_dim=64)
    return folder


@pytest.fixture(scope="module")
def matrix(model: Path) -> dict[str, np.ndarray]:
    return importance(model, windows_of(model, TEXT))


def test_importance_is_the_mean_square_of_what_calibration_sees(model: Path, matrix: dict[str, np.ndarray]) -> None:
    """The second moments that our solvers get, of the original model, have it on their diagonal."""
    seen = {}
    checkpoint = halfpint.open_model(model)
    names = [name for name in checkpoint.tensors if name.endswith("_proj.weight")]

    def keep(name, statistics):
        if statistics is not None:
            seen[name] = np.diagonal(statistics.second()) / statistics.tokens
        return checkpoint.read(name)

    calibrate(checkpoint, windows_of(model, TEXT), names, keep)
    checkpoint.close()
    assert len(seen) == len(matrix) == len(names)
    for layer in range(sum(name.endswith("down_proj.weight") for name in names)):
        for ours, theirs in (("self_attn.q_proj", "attn_q"), ("self_attn.o_proj", "attn_output")):
            expected = seen[f"model.layers.{layer}.{ours}.weight"]
            assert matrix[f"blk.{layer}.{theirs}.weight"] == pytest.approx(expected, rel=1e-4)
        expected = seen[f"model.layers.{layer}.mlp.down_proj.weight"]
        assert matrix[f"blk.{layer}.ffn_down.weight"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("setting", ["pure", "mix"])
def test_both_files_have_the_same_formats_tensor_by_tensor(
    llama_cpp: LlamaCpp, model: Path, matrix: dict[str, np.ndarray], setting: str, tmp_path: Path
) -> None:
    yardstick = Yardstick(model, (), 256)
    plain = plain_gguf(model, tmp_path)
    row = Bench("tiny", str(model), yardstick, llama_cpp, plain, matrix, TEXT).row("Q4_K", setting, tmp_path)
    assert row["same bytes"] == "yes"
    assert row["KL ours"] > 0
    assert row["KL theirs"] > 0


def test_llama_cpp_looks_at_the_importance(
    llama_cpp: LlamaCpp, model: Path, matrix: dict[str, np.ndarray], tmp_path: Path
) -> None:
    plain = plain_gguf(model, tmp_path)
    for name, given in (("with", matrix), ("without", None)):
        llama_cpp.quantize_file(plain, tmp_path / name, "Q4_0", importance=given, pure=True)
    files = halfpint.open_model(tmp_path / "with"), halfpint.open_model(tmp_path / "without")
    differ = {
        name: not np.array_equal(*(file.read(name).parts["blocks"] for file in files))
        for name, spec in files[0].tensors.items()
        if spec.format is not None and spec.format.name == "q4_0"
    }
    for file in files:
        file.close()
    assert all(differ[name] for name in differ if name.endswith("_proj.weight"))
    assert not any(differ[name] for name in differ if not name.endswith("_proj.weight"))
