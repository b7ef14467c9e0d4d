"""What `--bits N` means in each container, and what a tensor gets when its shape does not fit: as data.

A preset gives the linear layers about N bits and the embedding and the head more: they are looked up and shared by
every token, small in large models, and up to half of all damage in small ones when they are cut as deep as the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from halfpint import formats
from halfpint.errors import UnsupportedError
from halfpint.tensors import Format


@dataclass(frozen=True, slots=True)
class Preset:
    """Formats by kind of tensor; the empty name copies the tensor.

    Attributes
    ----------
    linear : str
        Every two-dimensional weight not named below.
    embedding : str
        The token embedding, tied or not, and the output head.
    exceptions : tuple of (role, format)
        Roles of `halfpint.families` that get something else.
    """

    linear: str
    embedding: str
    exceptions: tuple[tuple[str, str], ...] = ()


GGUF: Mapping[int, Preset] = MappingProxyType(
    {
        2: Preset("q2_k", "q6_k", (("attention_v", "q3_k"), ("mlp_down", "q3_k"))),
        3: Preset("q3_k", "q6_k", (("attention_v", "q4_k"),)),
        # IQ4_XS holds what Q4_K holds in a quarter bit less, which pays for more bits where they count.
        4: Preset("iq4_xs", "q6_k", (("attention_v", "q5_k"),)),
        5: Preset("q5_k", "q6_k", (("attention_v", "q6_k"),)),
        6: Preset("q6_k", "q6_k", (("attention_v", "q8_0"),)),
        7: Preset("q6_k", "q6_k", (("attention_v", "q8_0"), ("mlp_down", "q8_0"))),
        # Q8_0 spends 8.5 bits; up and query projections, which lose least per bit, bring the whole file to 8.
        8: Preset(
            "q8_0",
            "q8_0",
            (("mlp_up", "q6_k"), ("mlp_gate_up", "q6_k"), ("expert_up", "q6_k"), ("attention_q", "q6_k")),
        ),
    }
)

# vLLM and transformers look up embeddings and heads in the model's own floats.
COMPRESSED_TENSORS: Mapping[int, Preset] = MappingProxyType(
    {
        2: Preset("int2-g32-bf16", ""),
        3: Preset("int3-g64-bf16", ""),
        4: Preset("int4-g64-bf16", ""),
        5: Preset("int5-g128-bf16", ""),
        6: Preset("int6-g128-bf16", ""),
        7: Preset("int7-g128-bf16", ""),
        8: Preset("int8-bf16", ""),
    }
)

HUGGINGFACE: Mapping[int, Preset] = MappingProxyType({})

PRESETS: Mapping[str, Mapping[int, Preset]] = MappingProxyType(
    {"gguf": GGUF, "compressed-tensors": COMPRESSED_TENSORS, "huggingface": HUGGINGFACE}
)

# What to try, in order, when a format refuses a tensor's shape: never fewer bits than were asked for.
FALLBACKS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "q2_k": ("q4_0",),
        "q3_k": ("iq4_nl",),
        "iq4_xs": ("iq4_nl",),
        "q4_k": ("iq4_nl",),
        "q5_k": ("q5_0",),
        "q6_k": ("q8_0",),
    }
)

# What a budget may choose from. Formats of blocks of 32 stand in where rows do not divide into 256, and IQ4_NL, Q5_1
# and the like are no worse per byte than K-quants for some weights. Scales in bf16 reach every magnitude.
CANDIDATES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "gguf": ("q2_k", "q3_k", "iq4_xs", "iq4_nl", "q4_k", "q4_0", "q4_1", "q5_k", "q5_0", "q5_1", "q6_k", "q8_0"),
        "compressed-tensors": (
            *(f"int{bits}-g{size}-bf16" for bits in (2, 3, 4, 5, 6, 8) for size in (128, 64, 32)),
            "int8-bf16",
        ),
        "huggingface": (),
    }
)

# Tensors that must have one format because the container stacks them, or an engine computes them as one matrix
# (llama.cpp runs any mixture; vLLM joins query, key and value, gate and up, and all experts of a layer). Those of whose
# names a pattern matches, with the same groups, are one.
TIES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "gguf": (r"(.*\.experts)\.\d+\.(\w+)\.weight",),
        "compressed-tensors": (
            r"(.*\.experts)\.\d+\.\w+\.weight",
            r"(.*)\.[qkv]_proj\.weight",
            r"(.*)\.(?:gate|up)_proj\.weight",
            r"(.*)\.(?:q_a_proj|kv_a_proj_with_mqa)\.weight",
        ),
        "huggingface": (),
    }
)


def preset(container: str, bits: int) -> Preset:
    """The preset of a container for a number of bits.

    Raises
    ------
    UnsupportedError
        If there is none.
    """
    table = PRESETS.get(container, {})
    if bits not in table:
        known = ", ".join(str(known) for known in table) or "none"
        raise UnsupportedError(f"no preset for {bits} bits in {container}; there are: {known}")
    return table[bits]


def fallbacks(fmt: Format) -> tuple[Format, ...]:
    """What a tensor gets, in order of preference, when its shape does not fit `fmt`."""
    names = FALLBACKS.get(fmt.name, ())
    if fmt.name.startswith("int") and "-g" in fmt.name:
        head, _, tail = fmt.name.partition("-g")
        size, _, rest = tail.partition("-")
        smaller = [f"{head}-g{g}{'-' + rest if rest else ''}" for g in (64, 32, 16) if g < int(size)]
        # Whole rows always fit, but share one scale over many columns: more bits make up for it.
        names = (*smaller, f"int8{'-' + rest if rest else ''}")
    return tuple(formats.by_name(name) for name in names)
