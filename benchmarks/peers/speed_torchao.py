"""transformers with weights that torchao quantizes while they are loaded, as a worker of the benchmarks of speed.

Option `quantize`: "int8" for weights of 8 bits with dynamic activations of 8 bits; "int4" for weights of 4 bits in
groups of 64, which is the kind that runs on a processor.
"""

from __future__ import annotations

from typing import Any

import torch
import torchao
from speed_serving import Ready, serve
from speed_transformers import Model
from torchao.quantization import Int8DynamicActivationInt8WeightConfig, IntxWeightOnlyConfig, quantize_
from torchao.quantization.granularity import PerGroup

CONFIGS = {
    "int8": lambda: Int8DynamicActivationInt8WeightConfig(version=2),
    "int4": lambda: IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=PerGroup(64)),
}


def load(options: dict[str, Any]) -> Ready:
    """Load the model that the benchmark names, and quantize it."""
    ready = Model(options)
    ready.version += f", torchao {torchao.__version__}"
    quantize_(ready.model, CONFIGS[options["quantize"]]())
    return ready


if __name__ == "__main__":
    serve(load)
