"""llama.cpp computes from our GGUF files what transformers computes from the folder they were made of."""

from pathlib import Path

import numpy as np
import pytest
import torch

import tiny_models
from engines.llama_cpp import LlamaCpp
from halfpint import formats
from halfpint.checkpoints import open_checkpoint
from halfpint.checkpoints.checkpoint import OutputTensor
from halfpint.checkpoints.gguf import GGUF

pytestmark = pytest.mark.engine

IDS = np.random.default_rng(0).integers(3, tiny_models.VOCAB_SIZE, 40)


@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_logits_are_those_of_transformers(family: str, llama_cpp: LlamaCpp, tmp_path: Path) -> None:
    model = tiny_models.save_tiny(family, tmp_path / "model")
    source = open_checkpoint(tmp_path / "model")
    f32 = formats.by_name("f32")
    outputs = [OutputTensor(spec.name, spec.shape, f32, spec.dtype) for spec in source.tensors.values()]
    writer = GGUF.create(tmp_path / "model.gguf", source, outputs)
    for output in outputs:
        writer.write(output.name, 0, source.read(output.name))
    path = writer.finish()
    source.close()
    with torch.no_grad():
        expected = model(torch.tensor(IDS)[None]).logits[0].numpy()
    found = llama_cpp.logits(path, IDS)
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()
