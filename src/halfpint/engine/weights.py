"""Reading a model's parts from a checkpoint: projections, norms, embedding."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from halfpint.checkpoints.checkpoint import Checkpoint
from halfpint.errors import CheckpointError
from halfpint.families import FAMILIES, NORM_ROLES, ModelConfig, Role, TensorRole
from halfpint.kernels.integer_linear import Activations, IntegerLinear, multiply, multiply_gated
from halfpint.kernels.linear import Linear, decoded
from halfpint.tensors import Array, FloatArray, QuantizedTensor, TensorSpec

Weight = Array | QuantizedTensor

Prepare = Callable[[str, Weight], Weight]
"""(tensor name, weight as read) -> the weight to use: a chance to quantize or correct it on the way."""


def as_read(name: str, weight: Weight) -> Weight:  # noqa: ARG001 - the shape of a Prepare
    """Use weights as they are in the checkpoint."""
    return weight


ActivationKind = Literal["float32", "int8"]
"""What products see of their inputs: all of them, or codes of 8 bits with a scale for every 32, which is what makes
generation fast. Calibration and measuring are exact."""


def held(weight: Weight, activations: ActivationKind) -> Linear | IntegerLinear:
    """Put a weight into the form that products of this kind read."""
    return IntegerLinear(weight) if activations == "int8" else Linear(weight)


@dataclass(frozen=True, slots=True)
class Projection:
    """A product with a weight, and a bias if the model has one."""

    name: str
    linear: Linear | IntegerLinear
    bias: FloatArray | None


def project(projections: Sequence[Projection], x: Activations) -> list[FloatArray]:
    """Multiply the same activations [n, columns] with every projection: float32 [n, rows] each."""
    linears = [projection.linear for projection in projections]
    integers = [linear for linear in linears if isinstance(linear, IntegerLinear)]
    if len(integers) == len(linears):
        products = multiply(integers, x)
    else:
        products = [linear.forward(x.values) for linear in linears]
    for index, projection in enumerate(projections):
        if projection.bias is not None:
            products[index] += projection.bias
    return products


def project_gated(projections: Sequence[Projection], x: Activations, activation: str) -> FloatArray | None:
    """Give activation(first projection) * (second projection), or None where this is not one product."""
    gate, up = (projection.linear for projection in projections)
    biased = any(projection.bias is not None for projection in projections)
    if biased or not isinstance(gate, IntegerLinear) or not isinstance(up, IntegerLinear):
        return None
    return multiply_gated(gate, up, x, activation)


def model_tensors(config: ModelConfig) -> tuple[TensorRole, ...]:
    """All tensors of the model's family for this configuration."""
    return FAMILIES[config.family].tensors(config)


def check_header(checkpoint: Checkpoint, tensor: TensorRole) -> TensorSpec:
    """Give what the file's header says of a tensor, if that agrees with the configuration.

    Raises
    ------
    CheckpointError
        If the tensor is missing or has another shape.
    """
    spec = checkpoint.tensors.get(tensor.name)
    if spec is None:
        raise CheckpointError(f"{checkpoint.path}: the tensor {tensor.name} is missing")
    if spec.shape != tensor.shape:
        raise CheckpointError(
            f"{checkpoint.path}: {tensor.name} has shape {list(spec.shape)}; by the configuration it should have "
            f"{list(tensor.shape)}"
        )
    if spec.format is None:
        raise CheckpointError(
            f"{checkpoint.path}: {tensor.name} holds {spec.dtype} numbers, which are no weights by themselves"
        )
    return spec


def read_weight(checkpoint: Checkpoint, tensor: TensorRole, prepare: Prepare = as_read) -> Weight:
    """Read a whole tensor after checking its header, which raises CheckpointError."""
    check_header(checkpoint, tensor)
    return prepare(tensor.name, checkpoint.read(tensor.name))


LARGE_TABLE_BYTES = 1 << 26
"""Embeddings from this size on stay in their file, when text is generated: a row is read in 60 microseconds, and few
of them are ever looked up."""


@dataclass(frozen=True, slots=True)
class FileRows:
    """An embedding that stays in its file, which must stay open: rows are read as they are looked up."""

    checkpoint: Checkpoint
    name: str
    shape: tuple[int, int]

    @property
    def nbytes(self) -> int:
        """Bytes of memory held: none."""
        return 0

    def rows(self, ids: Array) -> FloatArray:
        """Read single rows: float32 [n, columns] for integers [n], the bits of `halfpint.formats.decode`."""
        wanted = ids.reshape(-1).tolist()
        # Without NumPy's `unique`, which took most of the time of a single row.
        found = {row: Linear(self.checkpoint.read(self.name, row, row + 1)).decode() for row in set(wanted)}
        table: FloatArray = np.concatenate([found[row] for row in wanted])
        return table

    def decode(self) -> FloatArray:
        """Read the whole: float32 [rows, columns]."""
        return Linear(self.checkpoint.read(self.name)).decode()


def read_table(
    checkpoint: Checkpoint, tensor: TensorRole, prepare: Prepare, activations: ActivationKind
) -> Linear | FileRows:
    """Read an embedding of which only rows are looked up, or leave it where it is if it is large."""
    spec = check_header(checkpoint, tensor)
    rows, columns = spec.shape
    by_rows = spec.format is None or spec.format.row_multiple == 1
    if activations == "int8" and prepare is as_read and by_rows and spec.nbytes >= LARGE_TABLE_BYTES:
        return FileRows(checkpoint, tensor.name, (rows, columns))
    return Linear(read_weight(checkpoint, tensor, prepare))


def read_vector(checkpoint: Checkpoint, tensor: TensorRole, prepare: Prepare, offset: float) -> FloatArray:
    """Read a norm or bias as float32, with `offset` added."""
    values = decoded(read_weight(checkpoint, tensor, prepare)).reshape(tensor.shape)
    return values + np.float32(offset) if offset else values


_BIASES: Mapping[Role, Role] = {
    Role.ATTENTION_Q: Role.ATTENTION_Q_BIAS,
    Role.ATTENTION_K: Role.ATTENTION_K_BIAS,
    Role.ATTENTION_V: Role.ATTENTION_V_BIAS,
    Role.ATTENTION_OUTPUT: Role.ATTENTION_OUTPUT_BIAS,
    Role.MLP_GATE: Role.MLP_GATE_BIAS,
    Role.MLP_UP: Role.MLP_UP_BIAS,
    Role.MLP_DOWN: Role.MLP_DOWN_BIAS,
}


@dataclass(frozen=True, slots=True)
class Parts:
    """What a block is made of, by role; for experts by (role, expert)."""

    norms: Mapping[Role, FloatArray]
    projections: Mapping[Role, Projection]
    experts: Mapping[tuple[Role, int], Projection]


def read_parts(
    checkpoint: Checkpoint, config: ModelConfig, layer: int, prepare: Prepare, activations: ActivationKind
) -> Parts:
    """Read all tensors of one block."""
    tensors = [tensor for tensor in model_tensors(config) if tensor.layer == layer]
    by_role = {tensor.role: tensor for tensor in tensors if tensor.expert is None}
    norms: dict[Role, FloatArray] = {}
    projections: dict[Role, Projection] = {}
    experts: dict[tuple[Role, int], Projection] = {}
    for tensor in tensors:
        if tensor.role in NORM_ROLES:
            norms[tensor.role] = read_vector(checkpoint, tensor, prepare, config.norm_offset)
        elif tensor.role in _BIASES.values():
            continue
        else:
            bias_tensor = by_role.get(_BIASES[tensor.role]) if tensor.role in _BIASES else None
            bias = None if bias_tensor is None else read_vector(checkpoint, bias_tensor, prepare, 0.0)
            projection = Projection(tensor.name, held(read_weight(checkpoint, tensor, prepare), activations), bias)
            if tensor.expert is None:
                projections[tensor.role] = projection
            else:
                experts[tensor.role, tensor.expert] = projection
    return Parts(norms, projections, experts)
