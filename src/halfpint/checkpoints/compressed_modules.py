"""The modules of a compressed-tensors folder: which tensors belong together, and which scheme they follow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from halfpint.checkpoints.compressed_schemes import Scheme, choose_scheme
from halfpint.checkpoints.packed_integers import Int8Tensor, PackedTensor, padded_words
from halfpint.checkpoints.safetensors_file import SafetensorsFile
from halfpint.checkpoints.safetensors_header import TensorEntry
from halfpint.checkpoints.shards import Shards
from halfpint.checkpoints.stored import PlainTensor, StoredTensor, float8_tensors, plain_spec
from halfpint.errors import CheckpointError, UnsupportedError
from halfpint.formats.affine import Affine, ScaleDtype
from halfpint.formats.packing import words_per_row
from halfpint.tensors import TensorSpec

_SCALE_DTYPES: Mapping[str, ScaleDtype] = MappingProxyType({"F16": "fp16", "BF16": "bf16", "F32": "fp32"})
_UNSUPPORTED_PARTS = MappingProxyType(
    {
        "weight_g_idx": "columns reordered by activation (actorder)",
        "weight_global_scale": "nvfp4 weights in compressed-tensors",
        "bitmask": "sparse weights",
        "compressed": "sparse weights",
    }
)
_COMPANIONS = ("weight_scale", "weight_zero_point", "weight_shape")
_ACTIVATION_PARTS = frozenset({"input_scale", "input_zero_point", "output_scale", "output_zero_point"})


def compressed_tensors_of(shards: Shards, schemes: Sequence[Scheme]) -> dict[str, StoredTensor]:
    """Put the tensors of all modules together.

    Returns
    -------
    dict of str to StoredTensor
        By the name that the model gives a weight; scales, shapes, zero points, and the scales of activations are not
        listed apart.

    Raises
    ------
    CheckpointError
        If a module is incomplete, or fits none of the schemes.
    UnsupportedError
        If it uses a part of the format that is not read.
    """
    scaled, used = float8_tensors(shards)
    quantized: dict[str, StoredTensor] = {}
    hidden = set(used)
    for name, file in shards.owners.items():
        module, _, leaf = name.rpartition(".")
        if leaf in _UNSUPPORTED_PARTS:
            raise UnsupportedError(f"{name}: {_UNSUPPORTED_PARTS[leaf]} are not read yet; start from the original")
        if leaf == "weight_packed":
            quantized[name] = _packed(module, shards, schemes)
        elif leaf == "weight" and file.entries[name].dtype == "I8":
            quantized[name] = _int8(module, shards, schemes)
        else:
            continue
        hidden.update(f"{module}.{part}" for part in _COMPANIONS)
    stored: dict[str, StoredTensor] = {}
    for name, file in shards.owners.items():
        tensor = quantized.get(name) or scaled.get(name)
        if tensor is None:
            if name in hidden or name.rpartition(".")[2] in _ACTIVATION_PARTS:
                continue
            tensor = PlainTensor(plain_spec(name, file), file)
        if tensor.spec.name != name and tensor.spec.name in shards.owners:
            raise CheckpointError(f"{tensor.spec.name} is there both packed and plain")
        stored[tensor.spec.name] = tensor
    return stored


def _packed(module: str, shards: Shards, schemes: Sequence[Scheme]) -> PackedTensor:
    packed, scale = _entry(shards, f"{module}.weight_packed"), _entry(shards, f"{module}.weight_scale")
    if packed.dtype != "I32" or len(packed.shape) != 2:
        raise UnsupportedError(
            f"{module}.weight_packed: {packed.dtype} {list(packed.shape)} is not read, I32 [_, _] is"
        )
    rows, columns = _shape(module, shards)
    if packed.shape[0] != rows:
        raise CheckpointError(f"{module}: weight_shape says {rows} rows, weight_packed is {list(packed.shape)}")
    symmetric = f"{module}.weight_zero_point" not in shards.owners
    fitting = _fitting(schemes, symmetric, (rows, columns), scale)
    dense = [scheme for scheme in fitting if packed.shape[1] == words_per_row(columns, scheme.bits)]
    old = [scheme for scheme in fitting if packed.shape[1] == padded_words(columns, scheme.bits)]
    scheme = choose_scheme(module, dense or old)
    count = words_per_row if dense else padded_words
    if not symmetric:
        _check_zero_points(module, shards, scale, count(rows, scheme.bits))
    parts = ("weight_packed", "weight_scale", *(() if symmetric else ("weight_zero_point",)))
    fmt = Affine(scheme.bits, scheme.group_size, symmetric, _scale_dtype(module, scale))
    nbytes = _bytes(module, shards, (*parts, "weight_shape"))
    spec = TensorSpec(f"{module}.weight", (rows, columns), f"pack-quantized int{scheme.bits}", nbytes, fmt)
    return PackedTensor(spec, fmt, _files(module, shards, parts), not dense)


def _int8(module: str, shards: Shards, schemes: Sequence[Scheme]) -> Int8Tensor:
    codes, scale = _entry(shards, f"{module}.weight"), _entry(shards, f"{module}.weight_scale")
    if len(codes.shape) != 2 or 0 in codes.shape:
        raise UnsupportedError(f"{module}.weight: int8 of shape {list(codes.shape)} is not read")
    shape = (codes.shape[0], codes.shape[1])
    symmetric = f"{module}.weight_zero_point" not in shards.owners
    fitting = [scheme for scheme in _fitting(schemes, symmetric, shape, scale) if scheme.bits == 8]
    scheme = choose_scheme(module, fitting)
    if not symmetric:
        zero_points = _entry(shards, f"{module}.weight_zero_point")
        if zero_points.dtype != "I8" or zero_points.shape != scale.shape:
            raise CheckpointError(
                f"{module}.weight_zero_point: {zero_points.dtype} {list(zero_points.shape)}, "
                f"where I8 {list(scale.shape)} belongs"
            )
    parts = ("weight", "weight_scale", *(() if symmetric else ("weight_zero_point",)))
    fmt = Affine(8, scheme.group_size, symmetric, _scale_dtype(module, scale))
    spec = TensorSpec(f"{module}.weight", shape, "int-quantized int8", _bytes(module, shards, parts), fmt)
    return Int8Tensor(spec, fmt, _files(module, shards, parts))


def _fitting(schemes: Sequence[Scheme], symmetric: bool, shape: tuple[int, int], scale: TensorEntry) -> list[Scheme]:
    """Find the schemes whose kind and number of groups are those of the tensors.

    Zero points that stand beside a symmetric scheme (old writers stored its zeros, too) are taken as they are.
    """
    rows, columns = shape
    found = []
    for scheme in schemes:
        groups = -(-columns // scheme.group_size) if scheme.group_size else 1
        single = groups == 1 and not scheme.group_size and scale.shape in ((), (1,), (1, 1))
        if scale.shape == (rows, groups) or single:
            found.append(scheme)
    alike = [scheme for scheme in found if scheme.symmetric == symmetric]
    return alike or ([] if symmetric else found)


def _entry(shards: Shards, name: str) -> TensorEntry:
    file = shards.owners.get(name)
    if file is None:
        raise CheckpointError(f"the tensor {name!r} is missing; the folder is incomplete")
    return file.entries[name]


def _files(module: str, shards: Shards, parts: Sequence[str]) -> Mapping[str, SafetensorsFile]:
    return MappingProxyType({part: shards.owners[f"{module}.{part}"] for part in parts})


def _bytes(module: str, shards: Shards, parts: Sequence[str]) -> int:
    entries = (_entry(shards, f"{module}.{part}") for part in parts)
    return sum(entry.end - entry.begin for entry in entries)


def _shape(module: str, shards: Shards) -> tuple[int, int]:
    name = f"{module}.weight_shape"
    entry = _entry(shards, name)
    if entry.shape != (2,) or entry.dtype not in ("I64", "I32"):
        raise CheckpointError(f"{name}: {entry.dtype} {list(entry.shape)}, where two whole numbers belong")
    rows, columns = (int(value) for value in shards.owners[name].read(name))
    if not (0 < rows < 2**40 and 0 < columns < 2**40):
        raise CheckpointError(f"{name}: [{rows}, {columns}] is no shape of a weight")
    return rows, columns


def _check_zero_points(module: str, shards: Shards, scale: TensorEntry, words: int) -> None:
    entry = _entry(shards, f"{module}.weight_zero_point")
    if (entry.dtype, entry.shape) not in (("I32", (words, *scale.shape[1:])), ("I8", scale.shape)):
        raise CheckpointError(
            f"{module}.weight_zero_point: {entry.dtype} {list(entry.shape)} fits neither [{words}, groups] packed "
            f"nor the {list(scale.shape)} of the scales"
        )


def _scale_dtype(module: str, scale: TensorEntry) -> ScaleDtype:
    if scale.dtype not in _SCALE_DTYPES:
        raise UnsupportedError(f"{module}.weight_scale: {scale.dtype} is not read; {', '.join(_SCALE_DTYPES)} are")
    return _SCALE_DTYPES[scale.dtype]
