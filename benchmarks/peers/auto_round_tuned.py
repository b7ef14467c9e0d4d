"""AutoRound's tuned rounding, written in a format that we read: compressed-tensors, or GGUF.

Run by `gptq_peers.py` and `size_against_kl.py`; see `README.md`.

    python auto_round_tuned.py MODEL TOKENS.npz OUTPUT SCHEME GROUP_SIZE FORMAT ITERATIONS

FORMAT `fake` writes the decoded weights in plain floats. With `gguf:q4_k_s` and the like give GROUP_SIZE 0.
"""

import importlib
import json
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import torch
from auto_round import AutoRound
from auto_round.export.export_to_gguf.llama_cpp_conversion import get_conversion
from transformers import AutoModelForCausalLM, AutoTokenizer

# It knows pre-tokenizers by the hash of what they make of a sample text; those of small models made here are none of
# them. Only the weights of the file are measured. It loads its converter as a package of its own, `conversion`.
get_conversion()
importlib.import_module("conversion.base").TextModel.get_vocab_base_pre = lambda self, tokenizer: "gpt-2"  # noqa: ARG005


def main() -> None:
    source, tokens, output, scheme, group_size, layout, iterations = sys.argv[1:]
    windows = np.load(tokens)
    rows = [torch.from_numpy(windows[name].astype(np.int64))[None] for name in windows.files]
    length = max(row.shape[1] for row in rows)
    tuner = AutoRound(
        AutoModelForCausalLM.from_pretrained(source, torch_dtype=torch.float32),
        AutoTokenizer.from_pretrained(source),
        scheme=scheme,
        **({"group_size": int(group_size)} if int(group_size) else {}),
        iters=int(iterations),
        dataset=[{"input_ids": row, "attention_mask": torch.ones_like(row)} for row in rows if row.shape[1] == length],
        seqlen=length,
        nsamples=len(rows),
        batch_size=8,
        device_map="cpu",
        enable_torch_compile=False,
    )
    started = time.monotonic()
    tuner.quantize_and_save(output_dir=output + ".parent", format=layout)
    seconds = time.monotonic() - started
    # It makes a folder of its own naming in the one that it is given, or puts a GGUF file there.
    made = [path for path in Path(output + ".parent").iterdir() if path.is_dir()]
    Path(made[0] if made else output + ".parent").rename(output)
    shutil.rmtree(output + ".parent", ignore_errors=True)
    Path(output, "seconds.json").write_text(json.dumps(seconds))


if __name__ == "__main__":
    main()
