"""OpenVINO GenAI as a worker of the benchmarks of speed: it reads some GGUF files, and its own folders.

It counts its own time; a run of one token gives that of the prompt.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import openvino
import openvino_genai
from speed_serving import Ready, Timing, Work, serve


class Model:
    """A loaded model."""

    version = f"OpenVINO GenAI {openvino_genai.__version__}"

    def __init__(self, options: dict[str, Any]) -> None:
        threads = {"INFERENCE_NUM_THREADS": options["threads"], "NUM_STREAMS": 1}
        self.pipeline = openvino_genai.LLMPipeline(options["model"], "CPU", **threads)
        self.vocabulary = len(self.pipeline.get_tokenizer().get_vocab())

    def run(self, work: Work) -> Timing:
        """Read prompts and continue them by the likeliest tokens."""
        ids = np.array(work.prompts(self.vocabulary), np.int64)
        inputs = openvino_genai.TokenizedInputs(openvino.Tensor(ids), openvino.Tensor(np.ones_like(ids)))
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens, config.ignore_eos, config.do_sample = work.tokens + 1, True, False
        result = self.pipeline.generate(inputs, config)
        told = result.perf_metrics
        prefill = told.get_ttft().mean / 1000
        return Timing(prefill, told.get_generate_duration().mean / 1000 - prefill, [list(row) for row in result.tokens])


def load(options: dict[str, Any]) -> Ready:
    """Load the model that the benchmark names."""
    return Model(options)


if __name__ == "__main__":
    serve(load)
