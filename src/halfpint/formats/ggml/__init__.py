"""GGUF's block formats: q8_0, q4_0, q4_1, q5_0, q5_1, q2_k to q6_k, iq4_nl and iq4_xs.

A part is the file's own bytes, so that writing them is copying. `encode` searches scales, sub-scales and minima for
the smallest weighted squared error; `unpack` and `pack` give solvers the fields inside.
"""

from halfpint.formats.ggml.block_layout import BlockFields, pack, unpack
from halfpint.formats.ggml.blocks import FORMATS, IQ4_LEVELS, GgmlBlocks, levels_of
from halfpint.formats.ggml.decoding import decode, group_scales
from halfpint.formats.ggml.encoding import encode

__all__ = [
    "FORMATS",
    "IQ4_LEVELS",
    "BlockFields",
    "GgmlBlocks",
    "decode",
    "encode",
    "group_scales",
    "levels_of",
    "pack",
    "unpack",
]
