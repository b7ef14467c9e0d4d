"""The records of GGUF's block formats, and the facts on which their codes rest.

Sizes and type numbers are those of ggml's block structs (ggml-common.h) and of the `gguf` package's constants.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from halfpint.tensors import PartSpec


@dataclass(frozen=True, slots=True)
class GgmlBlocks:
    """Blocks of consecutive columns, each holding its scales and its codes in GGUF's own bytes.

    With `level` the integer or table value of a code, a weight decodes to

    - `scale * level` for q8_0, q4_0, q5_0 and iq4_nl;
    - `scale * level + minimum` for q4_1 and q5_1;
    - `(scale * subscale) * level` for q3_k, q6_k and iq4_xs;
    - `(scale * subscale) * level - minimum * submin` for q2_k, q4_k and q5_k;

    every operation rounded to float32. `scale` and `minimum` are one IEEE half each per block.

    Attributes
    ----------
    name : str
        The name on the command line; in capitals it is ggml's.
    bits : int
        Bits of a code.
    block_columns : int
        Weights of a block: 32 or 256.
    block_bytes : int
        Bytes of a block.
    type_id : int
        ggml's number for the type, as GGUF files store it.
    group_columns : int
        Weights that share a scale, or a sub-scale where blocks have them.
    lowest_level : int
        The level of code 0.
    subscale_range : tuple of int
        Smallest and largest sub-scale; (1, 1) where blocks have none.
    has_minimum : bool
        Whether blocks store a minimum.
    """

    name: str
    bits: int
    block_columns: int
    block_bytes: int
    type_id: int
    group_columns: int
    lowest_level: int
    subscale_range: tuple[int, int]
    has_minimum: bool

    @property
    def bits_per_weight(self) -> float:
        """Exactly `8 * block_bytes / block_columns`."""
        return 8 * self.block_bytes / self.block_columns

    @property
    def row_multiple(self) -> int:
        """Rows are independent."""
        return 1

    @property
    def groups(self) -> int:
        """Groups in a block."""
        return self.block_columns // self.group_columns

    def refusal(self, rows: int, columns: int) -> str | None:  # noqa: ARG002 - part of the Format contract
        """Rows must divide into whole blocks."""
        if columns > 0 and columns % self.block_columns == 0:
            return None
        small = "; q8_0, q5_0, q4_0 and iq4_nl need only a multiple of 32" if self.block_columns > 32 else ""
        return (
            f"{columns} columns do not divide into blocks of {self.block_columns}, as {self.name} needs"
            f"{small if columns % 32 == 0 else ''}; choose one that divides them, or keep this tensor in bf16"
        )

    def parts(self, rows: int, columns: int) -> Mapping[str, PartSpec]:
        """`blocks`, uint8 [rows, columns / block_columns, block_bytes]: the bytes of the file."""
        shape = (rows, columns // self.block_columns, self.block_bytes)
        return {"blocks": PartSpec(shape, np.dtype(np.uint8))}

    def stored_bytes(self, rows: int, columns: int) -> int:
        """Whole blocks, nothing else."""
        return rows * (columns // self.block_columns) * self.block_bytes


Q4_0 = GgmlBlocks("q4_0", 4, 32, 18, 2, 32, -8, (1, 1), False)
Q4_1 = GgmlBlocks("q4_1", 4, 32, 20, 3, 32, 0, (1, 1), True)
Q5_0 = GgmlBlocks("q5_0", 5, 32, 22, 6, 32, -16, (1, 1), False)
Q5_1 = GgmlBlocks("q5_1", 5, 32, 24, 7, 32, 0, (1, 1), True)
Q8_0 = GgmlBlocks("q8_0", 8, 32, 34, 8, 32, -128, (1, 1), False)
Q2_K = GgmlBlocks("q2_k", 2, 256, 84, 10, 16, 0, (0, 15), True)
Q3_K = GgmlBlocks("q3_k", 3, 256, 110, 11, 16, -4, (-32, 31), False)
Q4_K = GgmlBlocks("q4_k", 4, 256, 144, 12, 32, 0, (0, 63), True)
Q5_K = GgmlBlocks("q5_k", 5, 256, 176, 13, 32, 0, (0, 63), True)
Q6_K = GgmlBlocks("q6_k", 6, 256, 210, 14, 16, -32, (-128, 127), False)
IQ4_NL = GgmlBlocks("iq4_nl", 4, 32, 18, 20, 32, -127, (1, 1), False)
IQ4_XS = GgmlBlocks("iq4_xs", 4, 256, 136, 23, 32, -127, (-32, 31), False)

FORMATS = (Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL, IQ4_XS)

IQ4_LEVELS = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
"""The sixteen levels of iq4_nl and iq4_xs (ggml-common.h, kvalues_iq4nl)."""

LARGEST_SCALE = 65504.0
"""The largest finite IEEE half."""


def levels_of(fmt: GgmlBlocks) -> tuple[int, ...]:
    """Give the level of every code of a format, ascending."""
    if fmt.name.startswith("iq4"):
        return IQ4_LEVELS
    return tuple(range(fmt.lowest_level, fmt.lowest_level + 2**fmt.bits))
