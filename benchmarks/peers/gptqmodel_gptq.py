"""GPTQModel's GPTQ at its best settings for grouped integers; with `mismatch`, its GPTAQ too.

Group-aware activation order (no cost at run time) and scales by an error power of 2.4. Its checkpoint is decoded into
plain float32, which any reader takes. Run by `gptq_peers.py`; see `README.md`.

    python gptqmodel_gptq.py MODEL TOKENS.npz OUTPUT BITS GROUP_SIZE [mismatch]
"""

import json
import shutil
import sys
import time
from pathlib import Path

import gptqmodel
import numpy as np
from gptqmodel import GPTQModel
from gptqmodel.quantization import QuantizeConfig
from gptqmodel.quantization.config import GPTAQConfig
from safetensors.numpy import save_file
from safetensors.torch import load_file

# It asks for two loading workers, of which there is one on a machine of two processors.
gptqmodel._default_cpu_workers = lambda: 2


def codes(packed: np.ndarray, bits: int, axis: int) -> np.ndarray:
    """Take `bits`-wide codes out of int32 words that hold them as one stream along an axis."""
    words = np.moveaxis(packed.view(np.uint32), axis, -1)
    stream = np.unpackbits(np.ascontiguousarray(words).view(np.uint8), axis=-1, bitorder="little")
    digits = stream.reshape(*words.shape[:-1], -1, bits).astype(np.int32)
    return np.moveaxis((digits << np.arange(bits, dtype=np.int32)).sum(axis=-1), -1, axis)


def decode(folder: Path, output: Path, bits: int) -> None:
    """Write a GPTQ checkpoint as plain float32."""
    tensors = {}
    for path in sorted(folder.glob("*.safetensors")):
        tensors.update(load_file(path))
    plain = {}
    for name, value in tensors.items():
        base, _, part = name.rpartition(".")
        if part == "qweight":
            # Files of the first version hold each zero point less one.
            zeros = codes(tensors[f"{base}.qzeros"].numpy(), bits, axis=1) + 1
            scales = tensors[f"{base}.scales"].float().numpy()
            group = tensors[f"{base}.g_idx"].numpy()
            weight = (codes(value.numpy(), bits, axis=0) - zeros[group]) * scales[group]
            plain[f"{base}.weight"] = np.ascontiguousarray(weight.T.astype(np.float32))
        elif part not in ("qzeros", "scales", "g_idx"):
            plain[name] = value.float().numpy()
    save_file(plain, output / "model.safetensors", metadata={"format": "pt"})


def main() -> None:
    source, tokens, output, bits, group_size, *mode = sys.argv[1:]
    windows = np.load(tokens)
    data = [{"input_ids": windows[name].tolist(), "attention_mask": [1] * len(windows[name])} for name in windows.files]
    config = QuantizeConfig(
        bits=int(bits),
        group_size=int(group_size),
        sym=True,
        mse=2.4,
        gptaq=GPTAQConfig() if "mismatch" in mode else None,
        device="cpu",
        offload_to_disk=False,
        pack_impl="original",  # the other compiles C++ for minutes
    )
    model = GPTQModel.load(source, config)
    started = time.monotonic()
    model.quantize(data, batch_size=1)
    seconds = time.monotonic() - started
    packed = Path(output + ".packed")
    model.save(str(packed))
    shutil.copytree(source, output, ignore=shutil.ignore_patterns("*.safetensors"))
    decode(packed, Path(output), int(bits))
    shutil.rmtree(packed)
    Path(output, "seconds.json").write_text(json.dumps(seconds))


if __name__ == "__main__":
    main()
