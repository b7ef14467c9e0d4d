"""transformers computes from our compressed-tensors folders what we compute from them.

Whole jobs and our own engine; `test_compressed_tensors.py` compares the containers' words themselves. A scale in
16 bits is multiplied in 16 bits by one way of loading (`dequantize`) and not by the other, so exact comparisons take
the ordinary way, or scales in float32.
"""

from pathlib import Path

import numpy as np
import pytest

import tiny_models
from engines import agreement
from engines.agreement import IDS, our_logits, quantized
from engines.process import EngineError
from engines.transformers_engine import TransformersEngine
from halfpint.errors import UnsupportedError

pytestmark = pytest.mark.engine

BOUND = 1e-4
MIXED = {
    "format": "int4-g64-fp32",
    "rules": (r"re:layers\.1\..*_proj\.weight$=int8-fp32", "*layers.0.self_attn.o_proj.weight=int6-g32-fp32"),
}
# Experts in one format beside attention in another; transformers takes all experts of a model for alike.
MIXED_AROUND_EXPERTS = {"format": "int4-g64-fp32", "rules": ("*self_attn*_proj.weight=int8-fp32",)}
MIXTURES = ("mixtral", "qwen3_moe")
WISHES = [
    *({"bits": bits} for bits in range(2, 9)),
    {"format": "int4-g64"},
    {"format": "int4-g32"},
    {"format": "int4-g128"},
    {"format": "int3-g64"},
    {"format": "int8"},
    {"format": "int8-g128-fp32"},
    {"format": "fp8"},
    {"format": "fp8-block"},
    MIXED,
]


@pytest.fixture(scope="session")
def calm(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One tiny model of every family."""
    parent = tmp_path_factory.mktemp("calm")
    return {family: agreement.save_calm(family, parent / family) for family in tiny_models.FAMILIES}


@pytest.mark.parametrize("wish", WISHES, ids=str)
def test_every_format(
    wish: dict[str, object], calm: dict[str, Path], transformers_engine: TransformersEngine, tmp_path: Path
) -> None:
    path = quantized(calm["llama"], tmp_path / "out", "compressed-tensors", engine="transformers", **wish)
    found = transformers_engine.logits(path, IDS)
    assert agreement.largest_error(found, our_logits(path, IDS)) < BOUND


@pytest.mark.parametrize("wish", [{"bits": 4}, MIXED], ids=str)
@pytest.mark.parametrize("family", [family for family in tiny_models.FAMILIES if family not in MIXTURES])
def test_every_family(
    family: str, wish: dict[str, object], calm: dict[str, Path], transformers_engine: TransformersEngine, tmp_path: Path
) -> None:
    path = quantized(calm[family], tmp_path / "out", "compressed-tensors", engine="transformers", **wish)
    found = transformers_engine.logits(path, IDS)
    assert agreement.largest_error(found, our_logits(path, IDS)) < BOUND


@pytest.mark.parametrize(
    "wish",
    [{"format": "int4-g64-fp32"}, {"format": "int3-g64-fp32"}, {"format": "fp8"}, MIXED_AROUND_EXPERTS],
    ids=str,
)
@pytest.mark.parametrize("family", MIXTURES)
def test_mixtures(
    family: str, wish: dict[str, object], calm: dict[str, Path], transformers_engine: TransformersEngine, tmp_path: Path
) -> None:
    path = quantized(calm[family], tmp_path / "out", "compressed-tensors", engine="transformers", **wish)
    found = transformers_engine.logits(path, IDS)
    assert agreement.largest_error(found, our_logits(path, IDS)) < BOUND


@pytest.mark.parametrize("family", MIXTURES)
def test_the_preset_of_4_bits_on_mixtures(
    family: str, calm: dict[str, Path], transformers_engine: TransformersEngine, tmp_path: Path
) -> None:
    """Experts, unlike all else, are decoded in the 16 bits of their scales: an error of 2**-9 in every weight.

    A nearly equal vote for two experts can go to the other one by that, hence the median.
    """
    path = quantized(calm[family], tmp_path / "out", "compressed-tensors", bits=4)
    errors = agreement.token_errors(transformers_engine.logits(path, IDS), our_logits(path, IDS))
    assert np.median(errors) < 1e-2


@pytest.mark.parametrize("family", MIXTURES)
def test_experts_of_two_formats_are_refused_because_they_come_out_wrong(
    family: str, calm: dict[str, Path], transformers_engine: TransformersEngine, tmp_path: Path
) -> None:
    wish = {"format": "int4-g64-fp32", "rules": ("*layers.1*experts*=int8-fp32",)}
    with pytest.raises(UnsupportedError, match="all experts of a model in one format"):
        quantized(calm[family], tmp_path / "refused", "compressed-tensors", engine="transformers", **wish)
    path = quantized(calm[family], tmp_path / "out", "compressed-tensors", **wish)
    assert agreement.rms_error(transformers_engine.logits(path, IDS), our_logits(path, IDS)) > 0.1


@pytest.mark.parametrize("family", MIXTURES)
def test_experts_with_scales_of_blocks_are_refused_because_they_do_not_load(
    family: str, calm: dict[str, Path], transformers_engine: TransformersEngine, tmp_path: Path
) -> None:
    with pytest.raises(UnsupportedError, match="scales of rows, not of blocks"):
        quantized(calm[family], tmp_path / "no", "compressed-tensors", engine="transformers", format="fp8-block")
    path = quantized(calm[family], tmp_path / "out", "compressed-tensors", format="fp8-block")
    with pytest.raises(EngineError):
        transformers_engine.logits(path, IDS)


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2"])
def test_zero_points(
    family: str, calm: dict[str, Path], transformers_engine: TransformersEngine, tmp_path: Path
) -> None:
    """compressed-tensors 0.18 to 0.20 read them on one of the two ways only, as `planning/engines.py` says."""
    path = quantized(calm[family], tmp_path / "out", "compressed-tensors", format="int4-g64-asym-fp32")
    found = transformers_engine.logits(path, IDS, dequantize=True)
    assert agreement.largest_error(found, our_logits(path, IDS)) < BOUND
    with pytest.raises(EngineError):
        transformers_engine.logits(path, IDS)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("name", ["demo", "stories260K", "babyllama-105"])
def test_trained_models(name: str, bits: int, transformers_engine: TransformersEngine, tmp_path: Path) -> None:
    folder = agreement.trained_model(name)
    path = quantized(folder, tmp_path / "out", "compressed-tensors", bits=bits)
    ids = agreement.text_windows(folder, 600)[0]
    found = transformers_engine.logits(path, ids)
    assert agreement.largest_error(found, our_logits(path, ids)) < BOUND
    assert transformers_engine.tokenize(path, "A little pot of milk.").size > 0
