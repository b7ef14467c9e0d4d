"""What `transformers_engine.py` calls, inside an environment with torch, transformers and compressed-tensors."""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, CompressedTensorsConfig


def source_arguments(source: str) -> dict[str, Any]:
    """Return what loads a model folder, or one GGUF file of a folder, dequantized."""
    path = Path(source)
    if path.is_dir():
        return {"pretrained_model_name_or_path": source}
    return {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}


@lru_cache(maxsize=1)
def loaded_model(source: str, stamp: int, dtype: str, dequantize: bool) -> Any:
    """Load a model; `stamp` changes when its file does."""
    options = source_arguments(source)
    if dequantize:
        options["quantization_config"] = CompressedTensorsConfig(dequantize=True)
    model, report = AutoModelForCausalLM.from_pretrained(
        dtype=getattr(torch, dtype), local_files_only=True, output_loading_info=True, **options
    )
    wrong = {key: sorted(map(str, report[key])) for key in ("missing_keys", "mismatched_keys") if report[key]}
    if wrong:
        raise ValueError(f"transformers filled tensors of {source} with random numbers: {wrong}")
    return model.eval()


def model_of(source: str, dtype: str, dequantize: bool) -> Any:
    """Return a model, from memory if it was the last one asked for and no file of it changed since."""
    path = Path(source)
    files = path.iterdir() if path.is_dir() else [path]
    return loaded_model(source, max(file.stat().st_mtime_ns for file in files), dtype, dequantize)


def logits(source: str, token_ids: np.ndarray, dtype: str, dequantize: bool, threads: int) -> Mapping[str, Any]:
    """Return the logits of every position: float32 [tokens, vocabulary]."""
    torch.set_num_threads(threads)
    model = model_of(source, dtype, dequantize)
    with torch.inference_mode():
        output = model(input_ids=torch.from_numpy(token_ids.astype(np.int64))[None], use_cache=False)
    return {"logits": output.logits[0].float().numpy()}


def generate(
    source: str, token_ids: np.ndarray, count: int, dtype: str, dequantize: bool, threads: int
) -> Mapping[str, Any]:
    """Return the likeliest tokens one after another: ids [count]."""
    torch.set_num_threads(threads)
    model = model_of(source, dtype, dequantize)
    prompt = torch.from_numpy(token_ids.astype(np.int64))[None]
    with torch.inference_mode():
        output = model.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=count,
            min_new_tokens=count,
            do_sample=False,
            pad_token_id=0,
        )
    return {"ids": output[0, prompt.shape[1] :].numpy()}


def tokenize(source: str, text: str, add_special: bool) -> Mapping[str, Any]:
    """Return the ids of a text with the tokenizer of a folder or a GGUF file."""
    tokenizer = AutoTokenizer.from_pretrained(local_files_only=True, **source_arguments(source))
    return {"ids": np.array(tokenizer(text, add_special_tokens=add_special)["input_ids"], dtype=np.int32)}


CALLS = {"logits": logits, "generate": generate, "tokenize": tokenize}
