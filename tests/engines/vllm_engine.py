"""vLLM on the CPU: whether it loads a folder, which kernels run it, and what comes out."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from engines.process import EngineProcess


class VllmAnswer(NamedTuple):
    """What vLLM made of one sequence.

    `ids` [count] continue the prompt. Row r of `top_ids` and `top_log_probabilities`
    [prompt tokens + count - 1, top] are the likeliest tokens at position r + 1 of prompt and continuation,
    best first. `kernels` has a line for every linear layer: "module: method, kernel".
    """

    ids: np.ndarray
    top_ids: np.ndarray
    top_log_probabilities: np.ndarray
    kernels: list[str]


class VllmEngine:
    """vLLM in an environment of its own; it runs one model per process, so every call starts one.

    Parameters
    ----------
    python : Path
        The interpreter of the environment; see `environment.engine_python`.
    cache_gibibytes : int, optional
        Memory that vLLM takes for keys and values.
    """

    def __init__(self, python: Path, *, cache_gibibytes: int = 1) -> None:
        self._python = python
        self._environment = {
            "VLLM_CPU_KVCACHE_SPACE": str(cache_gibibytes),
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_ALLOW_INSECURE_SERIALIZATION": "1",  # to ask the model in the same process for its kernels
        }

    def run(
        self, folder: Path, token_ids: np.ndarray, *, count: int = 8, top: int = 20, dtype: str = "bfloat16"
    ) -> VllmAnswer:
        """Load a folder and continue a sequence by the likeliest token.

        Parameters
        ----------
        folder : Path
            A model folder; its tokenizer is not used.
        token_ids : array of int, shape [tokens]
            The prompt, of two tokens at least; nothing is added to it.
        count : int, optional
            Tokens to generate; an end token does not end it.
        top : int, optional
            How many tokens per position to report; the size of the vocabulary gives all.
        dtype : str, optional
            "bfloat16", "float16" or "float32". Packed 4-bit weights do not run in float32.

        Raises
        ------
        EngineError
            If vLLM refuses the folder; the message holds its log.
        EngineCrashedError
            If its process dies.
        """
        with EngineProcess("vllm_worker", python=self._python, environment=self._environment) as process:
            arrays = {"token_ids": np.asarray(token_ids)}
            answer = process.call("run", arrays=arrays, folder=str(folder), count=count, top=top, dtype=dtype)
        parts = answer["ids"], answer["top_ids"], answer["top_log_probabilities"]
        return VllmAnswer(*parts, kernels=[str(line) for line in answer["kernels"]])
