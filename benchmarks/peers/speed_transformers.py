"""transformers as a worker of the benchmarks of speed: a folder in bfloat16."""

from __future__ import annotations

import time
from typing import Any

import torch
import transformers
from speed_serving import Ready, Timing, Work, serve
from transformers import AutoModelForCausalLM


class Model:
    """A loaded model."""

    version = f"transformers {transformers.__version__}, torch {torch.__version__}"

    def __init__(self, options: dict[str, Any]) -> None:
        torch.set_num_threads(options["threads"])
        self.model = AutoModelForCausalLM.from_pretrained(options["model"], dtype=torch.bfloat16).eval()

    @torch.inference_mode()
    def run(self, work: Work) -> Timing:
        """Read prompts and continue them by the likeliest tokens."""
        newest = torch.tensor(work.prompts(self.model.config.vocab_size))
        started = time.perf_counter()
        cache, ids = None, []
        read = started
        for step in range(work.tokens + 1):
            out = self.model(newest, past_key_values=cache, use_cache=True, logits_to_keep=1)
            cache, newest = out.past_key_values, out.logits[:, -1:].argmax(-1)
            ids.append(newest[:, 0].tolist())
            if step == 0:
                read = time.perf_counter()
        ended = time.perf_counter()
        return Timing(read - started, ended - read, [list(row) for row in zip(*ids, strict=True)])


def load(options: dict[str, Any]) -> Ready:
    """Load the model that the benchmark names."""
    return Model(options)


if __name__ == "__main__":
    serve(load)
