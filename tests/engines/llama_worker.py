"""What `llama_cpp.py` calls, inside the process that may crash. Every call loads the model it needs."""

import ctypes
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from llama_library import FILE_TYPES, Batch, Importance, Library, LibraryError, TensorType, open_library

BATCH_TOKENS = 512


@cache
def library() -> Library:
    """Open the libraries in the folder that the environment names."""
    return open_library(Path(os.environ["HALFPINT_LLAMA_LIBRARIES"]))


@contextmanager
def opened_model(gguf: str, *, vocabulary_only: bool = False, repack: bool = True) -> Iterator[int]:
    """Load a model, and free it afterwards."""
    llama = library().llama
    parameters = llama.llama_model_default_params()
    parameters.vocabulary_only = vocabulary_only
    parameters.use_extra_buffers = repack
    model = llama.llama_model_load_from_file(gguf.encode(), parameters)
    if not model:
        raise LibraryError(f"llama.cpp does not load {gguf}")
    try:
        yield model
    finally:
        llama.llama_model_free(model)


@contextmanager
def opened_context(model: int, tokens: int, cache_type: str, threads: int) -> Iterator[int]:
    """Make a context for a number of tokens, and free it afterwards."""
    llama = library().llama
    parameters = llama.llama_context_default_params()
    parameters.context_tokens = max(tokens, 1)
    parameters.batch_tokens = parameters.microbatch_tokens = BATCH_TOKENS
    parameters.outputs = BATCH_TOKENS
    parameters.outputs_per_sequence = 0  # as many as `outputs`; the default of 1 gives the last logits only
    parameters.threads = parameters.threads_batch = threads
    parameters.key_type = parameters.value_type = library().type_number(cache_type)
    parameters.flash_attention = 0  # it would round queries to 16 bits
    context = llama.llama_init_from_model(model, parameters)
    if not context:
        raise LibraryError("llama.cpp does not make a context")
    try:
        yield context
    finally:
        llama.llama_free(context)


def decode(context: int, token_ids: np.ndarray, *, every: bool) -> None:
    """Run at most BATCH_TOKENS tokens; keep the logits of every one of them or of the last."""
    tokens = np.ascontiguousarray(token_ids, dtype=np.int32)
    wants = np.full(tokens.size, every, dtype=np.int8)
    wants[-1] = 1
    batch = Batch(
        count=tokens.size,
        tokens=tokens.ctypes.data_as(ctypes.POINTER(ctypes.c_int32)),
        wants_logits=wants.ctypes.data_as(ctypes.POINTER(ctypes.c_int8)),
    )
    status = library().llama.llama_decode(context, batch)
    if status:
        raise LibraryError(f"llama_decode returned {status}")


def vocabulary_size(model: int) -> int:
    """Return how many tokens a model knows."""
    llama = library().llama
    return int(llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model)))


def kept_logits(context: int, rows: int, columns: int) -> np.ndarray:
    """Copy the logits of the last `decode`: float32 [rows, columns]."""
    pointer = library().llama.llama_get_logits(context)
    return np.ctypeslib.as_array(pointer, shape=(rows, columns)).copy()


def logits(gguf: str, token_ids: np.ndarray, cache_type: str, threads: int, repack: bool) -> Mapping[str, Any]:
    """Return the logits of every position: float32 [tokens, vocabulary]."""
    rows = []
    with (
        opened_model(gguf, repack=repack) as model,
        opened_context(model, token_ids.size, cache_type, threads) as context,
    ):
        for start in range(0, token_ids.size, BATCH_TOKENS):
            chunk = token_ids[start : start + BATCH_TOKENS]
            decode(context, chunk, every=True)
            rows.append(kept_logits(context, chunk.size, vocabulary_size(model)))
    return {"logits": np.concatenate(rows)}


def generate(gguf: str, token_ids: np.ndarray, count: int, cache_type: str, threads: int) -> Mapping[str, Any]:
    """Return the likeliest tokens one after another: ids [count], and the seconds of prompt and generation."""
    generated: list[int] = []
    tokens = token_ids.size + count
    with opened_model(gguf) as model, opened_context(model, tokens, cache_type, threads) as context:
        columns = vocabulary_size(model)
        start = time.perf_counter()
        for first in range(0, token_ids.size, BATCH_TOKENS):
            decode(context, token_ids[first : first + BATCH_TOKENS], every=False)
        generated.append(int(kept_logits(context, 1, columns).argmax()))
        prompt_end = time.perf_counter()
        while len(generated) < count:
            decode(context, np.array(generated[-1:]), every=False)
            generated.append(int(kept_logits(context, 1, columns).argmax()))
        end = time.perf_counter()
    return {"ids": np.array(generated), "prompt_seconds": prompt_end - start, "generation_seconds": end - prompt_end}


def tokenize(gguf: str, text: str, add_special: bool, parse_special: bool) -> Mapping[str, Any]:
    """Return the ids of a text: int32 [tokens]."""
    encoded = text.encode()
    ids = np.empty(len(encoded) + 8, dtype=np.int32)  # a token covers a byte at least; the rest is for specials
    pointer = ids.ctypes.data_as(ctypes.POINTER(ctypes.c_int32))
    llama = library().llama
    with opened_model(gguf, vocabulary_only=True) as model:
        vocabulary = llama.llama_model_get_vocab(model)
        count = llama.llama_tokenize(vocabulary, encoded, len(encoded), pointer, ids.size, add_special, parse_special)
    if count < 0:
        raise LibraryError(f"llama_tokenize returned {count}")
    return {"ids": ids[:count]}


def n_vocab(gguf: str) -> Mapping[str, Any]:
    """Return how many tokens a model knows."""
    with opened_model(gguf, vocabulary_only=True) as model:
        return {"count": vocabulary_size(model)}


def quantize_file(
    source: str,
    target: str,
    type_name: str,
    options: Mapping[str, Any],
    **importance: np.ndarray,
) -> Mapping[str, Any]:
    """Run llama.cpp's own quantizer from file to file; `importance` is float32 [columns] by tensor name."""
    opened = library()
    parameters = opened.llama.llama_model_quantize_default_params()
    parameters.file_type = FILE_TYPES[type_name]
    parameters.threads = options["threads"]
    parameters.pure = options["pure"]
    parameters.allow_requantize = options["allow_requantize"]
    for field in ("embedding_type", "output_type"):
        if options[field] is not None:
            setattr(parameters, field, opened.type_number(options[field]))
    values = {name: np.ascontiguousarray(array, dtype=np.float32) for name, array in importance.items()}
    entries = [Importance(name.encode(), array.ctypes.data, array.size) for name, array in values.items()]
    if entries:
        parameters.importance = (Importance * (len(entries) + 1))(*entries)
    patterns = [TensorType(p.encode(), opened.type_number(name)) for p, name in options["tensor_types"].items()]
    if patterns:
        parameters.tensor_types = (TensorType * (len(patterns) + 1))(*patterns)
    status = opened.llama.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(parameters))
    if status:
        raise LibraryError(f"llama_model_quantize returned {status} for {source} to {type_name}")
    return {}


def quantize_rows(type_name: str, weights: np.ndarray, importance: np.ndarray | None = None) -> Mapping[str, Any]:
    """Return the blocks of float32 [rows, columns] in a ggml type: uint8 [bytes]."""
    base, number = library().base, library().type_number(type_name)
    rows, columns = weights.shape
    if columns % base.ggml_blck_size(number):
        raise LibraryError(f"{columns} columns are not whole blocks of {type_name}")
    if importance is None and base.ggml_quantize_requires_imatrix(number):
        raise LibraryError(f"{type_name} needs importance")
    weights = np.ascontiguousarray(weights, dtype=np.float32)
    if importance is not None:
        importance = np.ascontiguousarray(importance, dtype=np.float32)
        if importance.shape != (columns,):
            raise LibraryError(f"importance has shape {importance.shape}, not ({columns},)")
    data = np.zeros(rows * base.ggml_row_size(number, columns), dtype=np.uint8)
    pointer = None if importance is None else importance.ctypes.data
    written = base.ggml_quantize_chunk(number, weights.ctypes.data, data.ctypes.data, 0, rows, columns, pointer)
    if written != data.size:
        raise LibraryError(f"ggml_quantize_chunk wrote {written} bytes, not {data.size}")
    return {"data": data}


def dequantize(type_name: str, data: np.ndarray, rows: int, columns: int) -> Mapping[str, Any]:
    """Return the weights that blocks hold: float32 [rows, columns]."""
    base, number = library().base, library().type_number(type_name)
    if data.size != rows * base.ggml_row_size(number, columns):
        raise LibraryError(f"{data.size} bytes are not {rows} x {columns} weights in {type_name}")
    special = {"f16": "ggml_fp16_to_fp32_row", "bf16": "ggml_bf16_to_fp32_row"}
    name = base.ggml_type_name(number).decode()
    function = getattr(base, special.get(name, f"dequantize_row_{name}"))
    function.restype, function.argtypes = None, (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)
    weights = np.empty((rows, columns), dtype=np.float32)
    function(np.ascontiguousarray(data).ctypes.data, weights.ctypes.data, weights.size)
    return {"weights": weights}


CALLS = {
    "logits": logits,
    "generate": generate,
    "tokenize": tokenize,
    "n_vocab": n_vocab,
    "quantize_file": quantize_file,
    "quantize_rows": quantize_rows,
    "dequantize": dequantize,
}
