"""transformers, with compressed-tensors: what a folder or a GGUF file means to it."""

from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from engines.process import EngineProcess


class TransformersEngine:
    """transformers in an environment of its own. Close it, or use it in a `with`.

    `source` is everywhere a model folder or a GGUF file; the last model stays loaded until its files change.
    Every method raises `EngineError` for what transformers refuses, and for a model of which it finds only a
    part: it would fill the rest with random numbers and go on.

    Parameters
    ----------
    python : Path
        The interpreter of the environment; see `environment.engine_python`.
    threads : int, optional
        Threads of every call.
    """

    def __init__(self, python: Path, *, threads: int = 2) -> None:
        self._process = EngineProcess("transformers_worker", python=python)
        self._threads = threads

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        self._process.close()

    def logits(
        self, source: Path, token_ids: np.ndarray, *, dtype: str = "float32", dequantize: bool = False
    ) -> np.ndarray:
        """Return the logits of every position: float32 [tokens, vocabulary].

        Parameters
        ----------
        source : Path
            A model folder or a GGUF file.
        token_ids : array of int, shape [tokens]
            One sequence; nothing is added to it.
        dtype : str, optional
            "float32", "bfloat16" or "float16".
        dequantize : bool, optional
            Load a compressed-tensors checkpoint by `CompressedTensorsConfig(dequantize=True)`: weights only,
            without the rounding of activations that its config may ask for.
        """
        arrays = {"token_ids": np.asarray(token_ids)}
        options: dict[str, Any] = {"dtype": dtype, "dequantize": dequantize, "threads": self._threads}
        return self._process.call("logits", arrays=arrays, source=str(source), **options)["logits"]

    def generate(
        self, source: Path, token_ids: np.ndarray, count: int, *, dtype: str = "float32", dequantize: bool = False
    ) -> np.ndarray:
        """Continue a sequence by the likeliest token, `count` times: ids [count]. An end token does not end it."""
        arrays = {"token_ids": np.asarray(token_ids)}
        options: dict[str, Any] = {"count": count, "dtype": dtype, "dequantize": dequantize, "threads": self._threads}
        return self._process.call("generate", arrays=arrays, source=str(source), **options)["ids"]

    def tokenize(self, source: Path, text: str, *, add_special: bool = True) -> np.ndarray:
        """Return the ids of a text: int32 [tokens]."""
        return self._process.call("tokenize", source=str(source), text=text, add_special=add_special)["ids"]
