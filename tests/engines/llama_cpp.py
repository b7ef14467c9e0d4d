"""llama.cpp: logits, text to tokens, and its own quantizers, run in a process that may crash."""

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np

from engines.process import EngineProcess


class Generated(NamedTuple):
    """Tokens that an engine chose, and how long it took."""

    ids: np.ndarray
    prompt_seconds: float
    generation_seconds: float


class LlamaCpp:
    """llama.cpp, as built in a folder of shared libraries. Close it, or use it in a `with`.

    Every method raises `EngineError`, with llama.cpp's own log, for what llama.cpp refuses, and
    `EngineCrashedError` if it aborts; the next call starts afresh.

    Parameters
    ----------
    library_folder : Path
        Holds `libllama`, `libggml` and the CPU backends; see `environment.llama_cpp_libraries`.
    threads : int, optional
        Threads of every call.
    """

    def __init__(self, library_folder: Path, *, threads: int = 2) -> None:
        # Without the second variable an abort in ggml starts a debugger to print a trace.
        environment = {"HALFPINT_LLAMA_LIBRARIES": str(library_folder), "GGML_NO_BACKTRACE": "1"}
        self._process = EngineProcess("llama_worker", environment=environment)
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

    def logits(self, gguf: Path, token_ids: np.ndarray, *, cache_type: str = "F32", repack: bool = True) -> np.ndarray:
        """Return the logits of every position: float32 [tokens, vocabulary].

        Parameters
        ----------
        gguf : Path
            The model.
        token_ids : array of int, shape [tokens]
            One sequence; nothing is added to it.
        cache_type : str, optional
            ggml type of keys and values. "F32" is exact; llama.cpp's own default is "F16".
        repack : bool, optional
            Whether weights may be reordered for faster kernels, as they are by default.

        Notes
        -----
        With quantized weights llama.cpp rounds activations to 8 bits too: expect a relative difference of
        a few percent from the same weights in floating point, and 1e-6 with F32 weights.
        """
        arrays = {"token_ids": np.asarray(token_ids)}
        return self._process.call(
            "logits", arrays=arrays, gguf=str(gguf), cache_type=cache_type, threads=self._threads, repack=repack
        )["logits"]

    def perplexity(self, gguf: Path, token_ids: np.ndarray) -> float:
        """Return exp of the mean negative log-likelihood of tokens 1, 2, ..., each given all before it.

        llama.cpp's own tool counts only the second half of every window: its number is another.
        """
        logits = self.logits(gguf, token_ids)[:-1].astype(np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        chosen = np.take_along_axis(logits, np.asarray(token_ids)[1:, None], axis=1)[:, 0]
        return float(np.exp(np.mean(np.log(np.exp(logits).sum(axis=1)) - chosen)))

    def generate(self, gguf: Path, token_ids: np.ndarray, count: int, *, cache_type: str = "F16") -> Generated:
        """Continue a sequence by the likeliest token, `count` times, with the speed of a real run."""
        arrays = {"token_ids": np.asarray(token_ids)}
        answer = self._process.call(
            "generate", arrays=arrays, gguf=str(gguf), count=count, cache_type=cache_type, threads=self._threads
        )
        return Generated(answer["ids"], float(answer["prompt_seconds"]), float(answer["generation_seconds"]))

    def tokenize(self, gguf: Path, text: str, *, add_special: bool = True, parse_special: bool = False) -> np.ndarray:
        """Return the ids of a text, int32 [tokens], with the tokenizer in a file's metadata."""
        return self._process.call(
            "tokenize", gguf=str(gguf), text=text, add_special=add_special, parse_special=parse_special
        )["ids"]

    def n_vocab(self, gguf: Path) -> int:
        """Return how many tokens a file's tokenizer knows."""
        return int(self._process.call("n_vocab", gguf=str(gguf))["count"])

    def quantize_file(
        self,
        source: Path,
        target: Path,
        type_name: str,
        *,
        importance: Mapping[str, np.ndarray] | None = None,
        tensor_types: Mapping[str, str] | None = None,
        embedding_type: str | None = None,
        output_type: str | None = None,
        pure: bool = False,
        allow_requantize: bool = False,
    ) -> None:
        """Write `source`, a file in F32, F16 or BF16, to `target` as llama-quantize would.

        Parameters
        ----------
        source, target : Path
            GGUF files.
        type_name : str
            A file type: "Q8_0", "Q4_K_M", "IQ4_XS", ...: `llama_library.FILE_TYPES`.
        importance : mapping of str to array of float, shape [columns], optional
            Mean square of each input, by the GGUF name of a tensor ("blk.0.attn_q.weight").
        tensor_types : mapping of str to str, optional
            Regular expression over tensor names -> ggml type.
        embedding_type, output_type : str, optional
            ggml types of `token_embd.weight` and `output.weight`.
        pure : bool, optional
            Give every tensor the same type, instead of more bits to some.
        allow_requantize : bool, optional
            Accept a source that is quantized already.
        """
        options = {
            "threads": self._threads,
            "pure": pure,
            "allow_requantize": allow_requantize,
            "embedding_type": embedding_type,
            "output_type": output_type,
            "tensor_types": dict(tensor_types or {}),
        }
        paths = {"source": str(source), "target": str(target)}
        self._process.call("quantize_file", arrays=importance, type_name=type_name, options=options, **paths)

    def quantize_rows(self, type_name: str, weights: np.ndarray, importance: np.ndarray | None = None) -> bytes:
        """Return the blocks of a matrix in a ggml type, row after row.

        Parameters
        ----------
        type_name : str
            "Q8_0", "Q4_K", "IQ4_XS", ...
        weights : array of float32, shape [rows, columns]
            Columns are whole blocks of the type.
        importance : array of float32, shape [columns], optional
            Mean square of each input; without it K types weigh errors by the weights' own size.
        """
        arrays = {"weights": np.asarray(weights)}
        if importance is not None:
            arrays["importance"] = np.asarray(importance)
        return self._process.call("quantize_rows", arrays=arrays, type_name=type_name)["data"].tobytes()

    def dequantize(self, type_name: str, data: bytes, shape: tuple[int, int]) -> np.ndarray:
        """Return the weights that blocks hold, float32 [rows, columns]: ggml's own reference."""
        arrays = {"data": np.frombuffer(data, dtype=np.uint8)}
        rows, columns = shape
        return self._process.call("dequantize", arrays=arrays, type_name=type_name, rows=rows, columns=columns)[
            "weights"
        ]
