"""Looking into a checkpoint: what it is and weighs, from headers alone; what one tensor's numbers look like."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from halfpint import families, formats, kernels
from halfpint.checkpoints import CONTAINERS
from halfpint.checkpoints.checkpoint import Checkpoint
from halfpint.errors import NonFiniteError, UsageError
from halfpint.kernels.coding import to_float32
from halfpint.planning.planner import Wish, make_plan
from halfpint.tensors import Array, FloatArray, QuantizedTensor, TensorSpec

# A histogram's bars, and the most weights that are looked at: enough for every digit that is shown.
BARS = 41
LARGEST_SAMPLE = 32_000_000


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a checkpoint's headers say.

    Attributes
    ----------
    family : str
        A key of `FAMILIES`, or empty when the model is of no known family.
    container : str
    parameters : int
        Tied tensors count once.
    nbytes : int
        Of the weight files.
    bytes_at : Mapping of str to int
        Size at 32 and 16 bits, and what `--bits 8` and `--bits 4` would make of it, scales included.
    tensors : tuple of TensorSpec
    config : Mapping
        In Hugging Face's words.
    """

    family: str
    container: str
    parameters: int
    nbytes: int
    bytes_at: Mapping[str, int]
    tensors: tuple[TensorSpec, ...]
    config: Mapping[str, object]


def inspect_model(checkpoint: Checkpoint) -> Inspection:
    """Describe a checkpoint from its headers."""
    family = families.find(checkpoint.config)
    specs = tuple(checkpoint.tensors.values())
    parameters = sum(spec.parameters for spec in specs)
    bytes_at = {"32": parameters * 4, "16": parameters * 2}
    container = CONTAINERS["gguf" if family is not None else "compressed-tensors"]
    for bits in (8, 4):
        plan = make_plan(checkpoint, container, Wish(bits=bits), exact=False)
        bytes_at[str(bits)] = plan.nbytes
    return Inspection(
        family="" if family is None else family.name,
        container=checkpoint.container,
        parameters=parameters,
        nbytes=checkpoint.weight_bytes,
        bytes_at=bytes_at,
        tensors=specs,
        config=checkpoint.config,
    )


@dataclass(frozen=True, slots=True)
class Rounding:
    """What one format does to a tensor.

    Attributes
    ----------
    format : str
    bits_per_weight : float
    relative_error : float
        Root of sum (weight - decoded)^2 / sum weight^2.
    step : float
        Of the even grid whose rounding would make the same error: the root of 12 times the mean squared error.
    examples : tuple of float
        What the example values become.
    """

    format: str
    bits_per_weight: float
    relative_error: float
    step: float
    examples: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class TensorView:
    """What one tensor's numbers look like.

    Attributes
    ----------
    spec : TensorSpec
    minimum, maximum, mean, deviation : float
        Over the sample.
    kurtosis : float
        Fourth moment over the squared second: 3 for a Gaussian, more with outliers.
    zeros : float
        Fraction of exact zeros.
    sampled_rows : int
        Rows looked at, from the first; all of them unless the tensor is very large.
    histogram : int64 [BARS]
        Counts over even bins of [low, high].
    low, high : float
        Where the histogram ends: values beyond are counted in the last bars.
    example_at : tuple of (row, column)
        Where the examples stand.
    examples : tuple of float
    roundings : tuple of Rounding
        At 8 and 4 bits.
    """

    spec: TensorSpec
    minimum: float
    maximum: float
    mean: float
    deviation: float
    kurtosis: float
    zeros: float
    sampled_rows: int
    histogram: NDArray[np.int64]
    low: float
    high: float
    example_at: tuple[tuple[int, int], ...]
    examples: tuple[float, ...]
    roundings: tuple[Rounding, ...]


def inspect_tensor(checkpoint: Checkpoint, name: str, format_names: tuple[str, ...] = ()) -> TensorView:
    """Read one tensor and describe its numbers, before and after rounding.

    Parameters
    ----------
    checkpoint : Checkpoint
    name : str
        As `inspect` lists it.
    format_names : tuple of str
        Formats to try; those that refuse the shape are replaced by their whole-row kin. Empty: 8 and 4 bits.

    Raises
    ------
    UsageError
        If there is no such tensor, or it holds no floats.
    """
    if name not in checkpoint.tensors:
        near = [known for known in checkpoint.tensors if name in known][:5]
        hint = f"; do you mean {', '.join(near)}?" if near else "; `halfpint inspect MODEL` lists the names"
        raise UsageError(f"no tensor {name!r}{hint}")
    spec = checkpoint.tensors[name]
    if spec.format is None or spec.parameters == 0:
        raise UsageError(f"{name} holds no floating-point numbers ({spec.dtype} {list(spec.shape)})")
    weight, rows = _sample(checkpoint, spec)
    try:
        formats.check_finite(weight)
    except NonFiniteError as error:
        raise NonFiniteError(f"{name}: {error}") from error
    columns = weight.shape[1]
    deviation = float(weight.std(dtype=np.float64))
    low, high = _ends(weight, deviation)
    histogram, _ = np.histogram(np.clip(weight, low, high), bins=BARS, range=(low, high))
    centred = weight - weight.mean(dtype=np.float64)
    fourth = float(np.square(np.square(centred)).mean(dtype=np.float64))
    places = tuple((0, column) for column in range(min(6, columns)))
    return TensorView(
        spec=spec,
        minimum=float(weight.min()),
        maximum=float(weight.max()),
        mean=float(weight.mean(dtype=np.float64)),
        deviation=deviation,
        kurtosis=fourth / deviation**4 if deviation > 0 else 0.0,
        zeros=float((weight == 0).mean()),
        sampled_rows=rows,
        histogram=histogram.astype(np.int64),
        low=low,
        high=high,
        example_at=places,
        examples=tuple(float(weight[place]) for place in places),
        roundings=tuple(_rounding(weight, fmt_name, places) for fmt_name in format_names or _defaults(columns)),
    )


def _ends(weight: FloatArray, deviation: float) -> tuple[float, float]:
    """Where a histogram begins and ends: as far from 0 on both sides, if the numbers lie around it."""
    least, most, middle = float(weight.min()), float(weight.max()), float(weight.mean(dtype=np.float64))
    if abs(middle) <= deviation:
        bound = min(max(-least, most), 5 * deviation) or 1.0
        return -bound, bound
    low, high = max(least, middle - 5 * deviation), min(most, middle + 5 * deviation)
    return (low, high) if low < high else (middle - abs(middle) / 2, middle + abs(middle) / 2)


def _defaults(columns: int) -> tuple[str, str]:
    return ("q8_0" if columns % 32 == 0 else "int8-g32", "q4_k" if columns % 256 == 0 else "int4-g32-asym")


def _sample(checkpoint: Checkpoint, spec: TensorSpec) -> tuple[FloatArray, int]:
    """The tensor as float32 [rows, columns], or its first rows when it is very large."""
    if len(spec.shape) < 2:
        return to_float32(checkpoint.read(spec.name)).reshape(1, -1), 1
    row_weights = max(1, spec.parameters // spec.shape[0])
    multiple = max(1, spec.format.row_multiple if spec.format is not None else 1)
    rows = min(spec.shape[0], max(multiple, LARGEST_SAMPLE // row_weights // multiple * multiple))
    value: Array | QuantizedTensor = checkpoint.read(spec.name, 0, rows)
    return to_float32(value).reshape(-1, spec.shape[-1]), rows


def _rounding(weight: FloatArray, name: str, places: tuple[tuple[int, int], ...]) -> Rounding:
    fmt = formats.by_name(name)
    decoded = kernels.decode(kernels.encode(weight, fmt))
    norm = float(np.square(weight, dtype=np.float64).sum())
    error = float(np.square(weight - decoded, dtype=np.float64).sum())
    return Rounding(
        format=fmt.name,
        bits_per_weight=fmt.bits_per_weight,
        relative_error=(error / norm) ** 0.5 if norm > 0 else 0.0,
        step=(12 * error / weight.size) ** 0.5,
        examples=tuple(float(decoded[place]) for place in places),
    )
