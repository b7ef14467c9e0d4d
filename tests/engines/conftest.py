"""One fixture per engine; a test that asks for one that is not installed is skipped, and says why."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from engines.environment import EngineMissingError, engine_python, llama_cpp_libraries
from engines.llama_cpp import LlamaCpp
from engines.transformers_engine import TransformersEngine
from engines.vllm_engine import VllmEngine


@pytest.fixture(scope="session")
def llama_cpp() -> Iterator[LlamaCpp]:
    """llama.cpp."""
    try:
        folder = llama_cpp_libraries()
    except EngineMissingError as error:
        pytest.skip(str(error))
    with LlamaCpp(folder) as engine:
        yield engine


@pytest.fixture(scope="session")
def transformers_engine() -> Iterator[TransformersEngine]:
    """transformers with compressed-tensors."""
    try:
        python = engine_python("transformers")
    except EngineMissingError as error:
        pytest.skip(str(error))
    with TransformersEngine(python) as engine:
        yield engine


@pytest.fixture(scope="session")
def vllm_engine() -> VllmEngine:
    """vLLM on the CPU; every call takes most of a minute."""
    try:
        return VllmEngine(engine_python("vllm"))
    except EngineMissingError as error:
        pytest.skip(str(error))
