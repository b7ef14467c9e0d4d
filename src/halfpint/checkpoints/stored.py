"""How the tensors of a model lie in safetensors files: plain, or as 8-bit floats with scales beside them.

A stored tensor knows what to say of itself (`spec`) and how to read a range of its rows; a checkpoint is a table
of them. `compressed_tensors` adds its own kinds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

import numpy as np

from halfpint.checkpoints.safetensors_file import SafetensorsFile
from halfpint.checkpoints.shards import Shards
from halfpint.errors import CheckpointError, UnsupportedError, UsageError
from halfpint.formats.float8 import FP8, FP8_BLOCK, Float8
from halfpint.formats.plain import BF16, F16, F32, Plain
from halfpint.tensors import Array, FloatArray, QuantizedTensor, TensorSpec

PLAIN_FORMATS: Mapping[str, Plain] = MappingProxyType({"F32": F32, "F16": F16, "BF16": BF16})
"""Dtype words of safetensors that are numeric formats by themselves."""

_SCALE_DTYPES = frozenset({"F32", "F16", "BF16"})
_BLOCK = FP8_BLOCK.block


class StoredTensor(Protocol):
    """A tensor as its files hold it."""

    @property
    def spec(self) -> TensorSpec:
        """What headers say of it."""

    def read(self, start_row: int, end_row: int) -> Array | QuantizedTensor:
        """Read rows [start_row, end_row), which the caller has checked to lie in the tensor."""


@dataclass(frozen=True, slots=True)
class PlainTensor:
    """An array in its own dtype."""

    spec: TensorSpec
    file: SafetensorsFile

    def read(self, start_row: int, end_row: int) -> Array:
        """Read these rows; a tensor without axes is read whole. F64 comes as float32."""
        whole = not self.spec.shape
        values = self.file.read(self.spec.name) if whole else self.file.read(self.spec.name, start_row, end_row)
        return as_float32(values, self.spec.name) if self.spec.dtype == "F64" else values


@dataclass(frozen=True, slots=True)
class ScaledFloat8:
    """e4m3 codes, and float scales in a tensor beside them.

    Attributes
    ----------
    spec : TensorSpec
        With the weight's name, the codes' shape, and the bytes of both.
    format : Float8
    codes : SafetensorsFile
        Holds `spec.name`.
    scales : SafetensorsFile
        Holds `scale_name`: one number per row, per block, or a single one.
    """

    spec: TensorSpec
    format: Float8
    codes: SafetensorsFile
    scales: SafetensorsFile
    scale_name: str

    def read(self, start_row: int, end_row: int) -> QuantizedTensor:
        """Read these rows; with 128x128 blocks they must begin and end with a block, or with the tensor."""
        rows, columns = self.spec.shape
        multiple = self.format.row_multiple
        if start_row % multiple or (end_row % multiple and end_row != rows):
            raise UsageError(
                f"tensor {self.spec.name!r} is coded in blocks of {multiple} rows; {start_row} to {end_row} is no "
                "whole number of them"
            )
        scales = self._scales(start_row, end_row)
        parts = {"codes": self.codes.read(self.spec.name, start_row, end_row), "scales": scales}
        return QuantizedTensor(self.format, (end_row - start_row, columns), MappingProxyType(parts))

    def _scales(self, start_row: int, end_row: int) -> Array:
        stored = self.scales.entries[self.scale_name].shape
        block = self.format.block
        if block:
            values = self.scales.read(self.scale_name, start_row // block, -(-end_row // block))
        elif stored and stored[0] == self.spec.shape[0]:
            values = self.scales.read(self.scale_name, start_row, end_row).reshape(-1, 1)
        else:
            # One scale for the whole tensor: said again for each row, which decodes to the same numbers.
            single = self.scales.read(self.scale_name).reshape(1, 1)
            values = np.repeat(single, end_row - start_row, axis=0)
        return values.astype(np.float32, copy=False)


def plain_spec(name: str, file: SafetensorsFile) -> TensorSpec:
    """Describe a tensor as its header does."""
    entry = file.entries[name]
    fmt = F32 if entry.dtype == "F64" else PLAIN_FORMATS.get(entry.dtype)
    return TensorSpec(name, entry.shape, entry.dtype, entry.end - entry.begin, fmt)


def as_float32(values: Array, name: str) -> FloatArray:
    """Round float64 to float32.

    Raises
    ------
    UnsupportedError
        If a finite value is beyond float32.
    """
    with np.errstate(over="ignore"):
        narrow: FloatArray = values.astype(np.float32)
    beyond = np.isinf(narrow) & np.isfinite(values)
    if beyond.any():
        raise UnsupportedError(f"tensor {name!r} holds {values[beyond].flat[0]:g} in F64, which is beyond float32")
    return narrow


def float8_tensors(shards: Shards) -> tuple[dict[str, StoredTensor], frozenset[str]]:
    """Find the 8-bit weights that have scales beside them.

    DeepSeek-V3's folders hold `P.weight` and `P.weight_scale_inv` (which multiplies, despite its name) for
    128x128 blocks; compressed-tensors and others hold `P.weight_scale` per row, per block or per tensor.

    Returns
    -------
    dict of str to StoredTensor, and frozenset of str
        The weights, and the names of all tensors that they account for.

    Raises
    ------
    CheckpointError
        If a scale fits no known arrangement.
    """
    found: dict[str, StoredTensor] = {}
    used: set[str] = set()
    for name, file in shards.owners.items():
        entry = file.entries[name]
        if entry.dtype != "F8_E4M3" or len(entry.shape) != 2:
            continue
        for scale_name in (f"{name}_scale_inv", f"{name}_scale"):
            if scale_name in shards.owners:
                found[name] = _scaled_float8(name, file, scale_name, shards.owners[scale_name])
                used.update((name, scale_name))
                break
    return found, frozenset(used)


def _scaled_float8(name: str, file: SafetensorsFile, scale_name: str, scales: SafetensorsFile) -> ScaledFloat8:
    codes, scale = file.entries[name], scales.entries[scale_name]
    rows, columns = codes.shape
    if scale.dtype not in _SCALE_DTYPES:
        raise UnsupportedError(f"tensor {scale_name!r} has dtype {scale.dtype}; scales are read as F32, F16 or BF16")
    blocks = (-(-rows // _BLOCK), -(-columns // _BLOCK))
    if scale.shape == blocks:
        # First, because the single scale of a small tensor is a block's as well as a whole tensor's.
        fmt, word = FP8_BLOCK, "block"
    elif scale.shape in ((rows, 1), (rows,), (1,), (), (1, 1)):
        fmt, word = FP8, "row"
    else:
        raise CheckpointError(
            f"tensor {scale_name!r} has shape {list(scale.shape)}; for {name!r} {list(codes.shape)} it would be "
            f"[{rows}, 1] or {list(blocks)} (blocks of {_BLOCK}x{_BLOCK})"
        )
    nbytes = codes.end - codes.begin + scale.end - scale.begin
    spec = TensorSpec(name, codes.shape, f"F8_E4M3 per {word}", nbytes, fmt)
    return ScaledFloat8(spec, fmt, file, scales, scale_name)
