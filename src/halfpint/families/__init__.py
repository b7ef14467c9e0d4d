"""How models of each family are wired and how containers name their parts, as data.

`FAMILIES` is the table. `read_config` turns the words of config.json into a checked `ModelConfig`;
`Family.tensors(config)` lists every tensor; `gguf_metadata`, `gguf_tensors` and `hf_config` speak GGUF.
"""

from halfpint.families.config import find, is_tied, read_config
from halfpint.families.gguf_words import (
    GgufValue,
    by_gguf_metadata,
    gguf_metadata,
    gguf_notes,
    gguf_tensors,
    hf_config,
)
from halfpint.families.record import (
    BIAS_ROLES,
    LINEAR_ROLES,
    NORM_ROLES,
    Family,
    ModelConfig,
    Role,
    TensorRole,
    gguf_row_order,
)
from halfpint.families.rope import LinearScaling, Llama3, LongRope, Rope, Scaling, Yarn, inverse_frequencies, stretch
from halfpint.families.table import FAMILIES

__all__ = [
    "BIAS_ROLES",
    "FAMILIES",
    "LINEAR_ROLES",
    "NORM_ROLES",
    "Family",
    "GgufValue",
    "LinearScaling",
    "Llama3",
    "LongRope",
    "ModelConfig",
    "Role",
    "Rope",
    "Scaling",
    "TensorRole",
    "Yarn",
    "by_gguf_metadata",
    "find",
    "gguf_metadata",
    "gguf_notes",
    "gguf_row_order",
    "gguf_tensors",
    "hf_config",
    "inverse_frequencies",
    "is_tied",
    "read_config",
    "stretch",
]
