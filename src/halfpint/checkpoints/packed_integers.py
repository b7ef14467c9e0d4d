"""Integer weights as compressed-tensors stores them.

For a module P of [rows, columns] and b bits:

- `P.weight_packed` int32 [rows, ceil(columns * b / 32)]: codes as unsigned numbers (signed ones plus 2^(b-1)) in a
  dense stream along each row. Versions before 0.18 padded each word of 3, 5, 6 and 7 bits with 32 // b codes; both
  are read, the dense one is written.
- `P.weight_scale` [rows, groups].
- `P.weight_zero_point`, when not symmetric: int32 [ceil(rows * b / 32), groups], packed the same way, but along rows.
- `P.weight_shape` int64 [2]: rows, columns.

int-quantized and naive-quantized folders hold `P.weight` int8 [rows, columns] instead of the first and the last.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from halfpint.checkpoints.checkpoint import OutputTensor
from halfpint.checkpoints.folder_writer import Declared
from halfpint.checkpoints.safetensors_file import SafetensorsFile
from halfpint.errors import UsageError
from halfpint.formats.affine import Affine
from halfpint.formats.float8 import Float8
from halfpint.formats.packing import WORD_BITS, pack_bits, unpack_bits, words_per_row
from halfpint.tensors import Array, QuantizedTensor, TensorSpec

_SCALE_WORDS = MappingProxyType({"fp16": "F16", "bf16": "BF16", "fp32": "F32"})


def padded_words(count: int, bits: int) -> int:
    """32-bit words of `count` codes when no code may straddle two words."""
    return -(-count // (WORD_BITS // bits))


def unpack_words(words: NDArray[np.uint32], bits: int, count: int, *, padded: bool) -> NDArray[np.uint8]:
    """Give back `count` codes a row, from a dense or a padded stream.

    Parameters
    ----------
    words : uint32 [rows, words]
    bits : int
    count : int
    padded : bool
        Whether each word holds 32 // bits codes and no part of another.

    Returns
    -------
    uint8 [rows, count]
    """
    if not padded:
        return unpack_bits(words, bits, count)
    each = WORD_BITS // bits
    codes = unpack_bits(np.ascontiguousarray(words).reshape(-1, 1), bits, each)
    return codes.reshape(len(words), words.shape[1] * each)[:, :count]


@dataclass(frozen=True, slots=True)
class PackedTensor:
    """A weight in packed words.

    Attributes
    ----------
    spec : TensorSpec
        Named `P.weight`.
    format : Affine
    files : Mapping of str to SafetensorsFile
        Which file holds `weight_packed`, `weight_scale` and `weight_zero_point` of P.
    padded : bool
        Whether the words are those of versions before 0.18.
    """

    spec: TensorSpec
    format: Affine
    files: Mapping[str, SafetensorsFile]
    padded: bool

    def read(self, start_row: int, end_row: int) -> QuantizedTensor:
        """Read and unpack these rows."""
        rows, columns = end_row - start_row, self.spec.shape[1]
        words = self._part("weight_packed", start_row, end_row).view(np.uint32)
        codes = unpack_words(words, self.format.bits, columns, padded=self.padded)
        scales = rows_of(
            self.files["weight_scale"], f"{self.spec.name}_scale", self.spec.shape[0], (start_row, end_row)
        )
        parts: dict[str, Array] = {"scales": scales}
        if self.format.symmetric:
            parts["codes"] = signed(codes, self.format.bits)
        else:
            parts["codes"] = codes
            parts["zero_points"] = self._zero_points(start_row, end_row)
        return QuantizedTensor(self.format, (rows, columns), MappingProxyType(parts))

    def _part(self, part: str, start_row: int, end_row: int) -> Array:
        name = f"{self.spec.name.removesuffix('weight')}{part}"
        return self.files[part].read(name, start_row, end_row)

    def _zero_points(self, start_row: int, end_row: int) -> NDArray[np.uint8]:
        part, bits = "weight_zero_point", self.format.bits
        file = self.files[part]
        if file.entries[f"{self.spec.name.removesuffix('weight')}{part}"].dtype == "I8":
            # The first versions did not pack them; they are signed, like the codes of int8.
            return unsigned(self._part(part, start_row, end_row), bits)
        each = WORD_BITS // bits if self.padded else WORD_BITS
        first = start_row - start_row % each
        count = padded_words if self.padded else words_per_row
        words = self._part(part, count(first, bits), count(end_row, bits)).view(np.uint32)
        codes = unpack_words(np.ascontiguousarray(words.T), bits, end_row - first, padded=self.padded)
        return np.ascontiguousarray(codes[:, start_row - first :].T)


@dataclass(frozen=True, slots=True)
class Int8Tensor:
    """A weight in int8 with scales per row, per group, or for all of it, and perhaps zero points."""

    spec: TensorSpec
    format: Affine
    files: Mapping[str, SafetensorsFile]

    def read(self, start_row: int, end_row: int) -> QuantizedTensor:
        """Read these rows."""
        codes = self.files["weight"].read(self.spec.name, start_row, end_row)
        scales = self._of_rows("weight_scale", start_row, end_row)
        parts = {"codes": codes, "scales": scales}
        if not self.format.symmetric:
            parts["codes"] = unsigned(codes, 8)
            parts["zero_points"] = unsigned(self._of_rows("weight_zero_point", start_row, end_row), 8)
        return QuantizedTensor(self.format, (end_row - start_row, self.spec.shape[1]), MappingProxyType(parts))

    def _of_rows(self, part: str, start_row: int, end_row: int) -> Array:
        name = f"{self.spec.name.removesuffix('weight')}{part}"
        return rows_of(self.files[part], name, self.spec.shape[0], (start_row, end_row))


def rows_of(file: SafetensorsFile, name: str, rows: int, wanted: tuple[int, int]) -> Array:
    """Read the scales of some rows; a single number stands for every row.

    Returns
    -------
    Array
        [rows wanted, groups].
    """
    shape = file.entries[name].shape
    if len(shape) == 2 and shape[0] == rows:
        return file.read(name, *wanted)
    return np.repeat(file.read(name).reshape(1, 1), wanted[1] - wanted[0], axis=0)


@dataclass(frozen=True, slots=True)
class PackedSlot:
    """A weight to be stored in packed words."""

    tensor: OutputTensor
    format: Affine

    def stored(self) -> Declared:
        """Words, scales, shape, and zero points when there are any."""
        rows, columns = self.tensor.shape
        module = self.tensor.name.removesuffix(".weight")
        groups = self.format.groups(columns)
        declared = {
            f"{module}.weight_packed": ("I32", (rows, words_per_row(columns, self.format.bits))),
            f"{module}.weight_scale": (_SCALE_WORDS[self.format.scale_dtype], (rows, groups)),
            f"{module}.weight_shape": ("I64", (2,)),
        }
        if not self.format.symmetric:
            words = words_per_row(rows, self.format.bits)
            declared[f"{module}.weight_zero_point"] = ("I32", (words, groups))
        return declared

    def constants(self) -> Mapping[str, Array]:
        """Give the shape, which is known beforehand."""
        module = self.tensor.name.removesuffix(".weight")
        return {f"{module}.weight_shape": np.array(self.tensor.shape, np.int64)}

    def pieces(self, start_row: int, values: QuantizedTensor | Array) -> Iterable[tuple[str, int, Array]]:
        """Pack these rows.

        Raises
        ------
        UsageError
            If they are not in the declared format, or are not symmetric and begin or end within a word of zero
            points: 32 rows always make whole words.
        """
        parts = parts_of(self.tensor, values)
        module, bits = self.tensor.name.removesuffix(".weight"), self.format.bits
        codes = unsigned(parts["codes"], bits) if self.format.symmetric else parts["codes"]
        yield f"{module}.weight_packed", start_row, pack_bits(codes, bits).view(np.int32)
        yield f"{module}.weight_scale", start_row, parts["scales"]
        if not self.format.symmetric:
            end_row = start_row + len(codes)
            if start_row % WORD_BITS or (end_row % WORD_BITS and end_row != self.tensor.shape[0]):
                raise UsageError(
                    f"tensor {self.tensor.name!r}: zero points are packed along rows, so slices must begin and end "
                    f"at multiples of {WORD_BITS} rows; {start_row} to {end_row} came"
                )
            words = pack_bits(np.ascontiguousarray(parts["zero_points"].T), bits)
            yield (
                f"{module}.weight_zero_point",
                words_per_row(start_row, bits),
                np.ascontiguousarray(words.T).view(np.int32),
            )


@dataclass(frozen=True, slots=True)
class Float8Slot:
    """A weight to be stored as e4m3 codes and float32 scales."""

    tensor: OutputTensor
    format: Float8

    def stored(self) -> Declared:
        """Codes under the weight's name, scales beside them."""
        rows, columns = self.tensor.shape
        scales = self.format.parts(rows, columns)["scales"].shape
        return {self.tensor.name: ("F8_E4M3", (rows, columns)), f"{self.tensor.name}_scale": ("F32", scales)}

    def constants(self) -> Mapping[str, Array]:
        """Nothing is known beforehand."""
        return {}

    def pieces(self, start_row: int, values: QuantizedTensor | Array) -> Iterable[tuple[str, int, Array]]:
        """Take codes and scales as they are.

        Raises
        ------
        UsageError
            If a slice begins or ends within a block.
        """
        parts = parts_of(self.tensor, values)
        multiple = self.format.row_multiple
        end_row = start_row + len(parts["codes"])
        if start_row % multiple or (end_row % multiple and end_row != self.tensor.shape[0]):
            raise UsageError(
                f"tensor {self.tensor.name!r}: rows {start_row} to {end_row} are no whole blocks of {multiple}"
            )
        yield self.tensor.name, start_row, parts["codes"]
        yield f"{self.tensor.name}_scale", start_row // multiple, parts["scales"]


def parts_of(tensor: OutputTensor, values: QuantizedTensor | Array) -> Mapping[str, Array]:
    """Give the parts of what came, which must be in the declared format.

    Raises
    ------
    UsageError
        If a plain array came, or the columns are not those declared.
    """
    if not isinstance(values, QuantizedTensor) or values.shape[1] != tensor.shape[1]:
        raise UsageError(f"tensor {tensor.name!r} was declared {tensor.format} {list(tensor.shape)}")
    return values.parts


def signed(codes: NDArray[np.uint8], bits: int) -> NDArray[np.int8]:
    """Take 2^(bits-1) from unsigned codes."""
    # Wrapping around 256 and reading the result as signed gives the true difference.
    return (codes - np.uint8(1 << (bits - 1))).view(np.int8)


def unsigned(codes: Array, bits: int) -> NDArray[np.uint8]:
    """Add 2^(bits-1) to signed codes."""
    return np.ascontiguousarray(codes).view(np.uint8) + np.uint8(1 << (bits - 1))
