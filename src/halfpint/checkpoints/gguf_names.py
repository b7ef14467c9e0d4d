"""Where a GGUF file of a known family keeps each tensor of the Hugging Face folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from halfpint import families
from halfpint.errors import CheckpointError

MOST_EXPERTS = 65_536
"""Experts of all layers together; the largest models have a third of it. Bounds what a small file can ask for."""


@dataclass(frozen=True, slots=True)
class Place:
    """The place of one tensor.

    Attributes
    ----------
    name, shape
        In the Hugging Face folder.
    gguf_name : str
        In the file.
    expert : int or None
        Index along the first axis of the file's tensor, which holds all experts of a layer.
    stored_rows : int64 [rows] or None
        Row of the file (of the expert's slice) that holds each row of the folder; None when they are the same.
    offset : float
        The file holds values plus this.
    optional : bool
        Whether a model may do without it.
    """

    name: str
    shape: tuple[int, ...]
    gguf_name: str
    expert: int | None
    stored_rows: NDArray[np.int64] | None
    offset: float
    optional: bool


def places(config: Mapping[str, Any]) -> dict[str, Place]:
    """Give the place of every tensor that a model with this configuration has, by Hugging Face name.

    Raises
    ------
    UnsupportedError
        If the family is unknown, or the configuration asks for what is not implemented.
    CheckpointError
        If the configuration is impossible.
    """
    model = families.read_config(config)
    if model.layers * model.experts > MOST_EXPERTS:
        raise CheckpointError(
            f"{model.layers} layers of {model.experts} experts are more than any model has; the header is damaged"
        )
    family = families.FAMILIES[model.family]
    return {role.name: _place(role, model) for role in family.tensors(model)}


def _place(role: families.TensorRole, model: families.ModelConfig) -> Place:
    order = families.gguf_row_order(role, model)
    stored_rows = None if order is None else np.argsort(order)
    return Place(role.name, role.shape, role.gguf_name, role.expert, stored_rows, role.gguf_offset, role.optional)
