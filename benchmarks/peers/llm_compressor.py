"""llm-compressor's GPTQ at its best settings for grouped integers: static activation order, scales by squared error.

Run by `gptq_peers.py` with the interpreter of the environment that has llm-compressor; see `README.md`.

    python llm_compressor.py MODEL TOKENS.npz OUTPUT BITS GROUP_SIZE
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.gptq import GPTQModifier
from transformers import AutoModelForCausalLM


def main() -> None:
    source, tokens, output, bits, group_size = sys.argv[1:]
    model = AutoModelForCausalLM.from_pretrained(source, torch_dtype=torch.float32)
    windows = np.load(tokens)
    rows = [windows[name].tolist() for name in windows.files]
    data = Dataset.from_dict({"input_ids": rows, "attention_mask": [[1] * len(row) for row in rows]})
    weights = QuantizationArgs(
        num_bits=int(bits), type="int", symmetric=True, strategy="group", group_size=int(group_size), observer="mse"
    )
    scheme = QuantizationScheme(targets=["Linear"], weights=weights)
    recipe = GPTQModifier(config_groups={"group_0": scheme}, ignore=["lm_head"], actorder="static")
    started = time.monotonic()
    oneshot(
        model=model,
        dataset=data,
        recipe=recipe,
        num_calibration_samples=len(rows),
        max_seq_length=max(map(len, rows)),
        shuffle_calibration_samples=False,
        batch_size=1,
        pipeline="sequential",
    )
    seconds = time.monotonic() - started
    model.save_pretrained(output, save_compressed=True)
    Path(output, "seconds.json").write_text(json.dumps(seconds))


if __name__ == "__main__":
    main()
