"""Whether anybody's checkpoint is complete, finite and consistent."""

from __future__ import annotations

import numpy as np

from halfpint import families
from halfpint.checkpoints.checkpoint import Checkpoint
from halfpint.errors import UnsupportedError, VerificationError
from halfpint.families.record import Role
from halfpint.kernels.coding import to_float32
from halfpint.pipeline.options import Progress, silent
from halfpint.pipeline.results import VerifyReport
from halfpint.planning.left_out import check_is_weight, no_weight
from halfpint.planning.planner import roles_of
from halfpint.tensors import TensorSpec, row_slices
from halfpint.tokenization import load_tokenizer


def verify_checkpoint(checkpoint: Checkpoint, progress: Progress = silent) -> VerifyReport:
    """Read every tensor of a checkpoint and hold it against its family's wiring.

    Parameters
    ----------
    checkpoint : Checkpoint
    progress : Progress

    Returns
    -------
    VerifyReport

    Raises
    ------
    VerificationError
        If a tensor is missing or has another shape than the configuration says, or holds NaN or infinity.
    """
    notes = [*checkpoint.notes, *_check_wiring(checkpoint), *_check_tokenizer(checkpoint)]
    roles = roles_of(checkpoint)
    for spec in checkpoint.tensors.values():
        check_is_weight(checkpoint, spec, roles.get(spec.name))
    total = sum(spec.nbytes for spec in checkpoint.tensors.values())
    done = 0
    for spec in checkpoint.tensors.values():
        progress("verify", done, total, spec.name)
        notes += _check_numbers(checkpoint, spec)
        done += spec.nbytes
    progress("verify", done, total, "")
    family = families.find(checkpoint.config)
    return VerifyReport(
        container=checkpoint.container,
        family="" if family is None else family.name,
        tensors=len(checkpoint.tensors),
        nbytes=checkpoint.weight_bytes,
        parameters=sum(spec.parameters for spec in checkpoint.tensors.values()),
        notes=tuple(notes),
        unchecked=sum(spec.format is None for spec in checkpoint.tensors.values()),
    )


def _check_wiring(checkpoint: Checkpoint) -> list[str]:
    """Names and shapes against the family; returns notes on what is unusual."""
    family = families.find(checkpoint.config)
    if family is None:
        return ["the model is of no known family: names and shapes were not checked"]
    expected = {role.name: role for role in family.tensors(families.read_config(checkpoint.config))}
    for role in expected.values():
        spec = checkpoint.tensors.get(role.name)
        if spec is None:
            if not role.optional:
                raise VerificationError(f"{checkpoint.path}: {role.name} is missing; the download may be incomplete")
        elif spec.shape != role.shape:
            raise VerificationError(
                f"{checkpoint.path}: {role.name} has shape {list(spec.shape)}, "
                f"the configuration says {list(role.shape)}"
            )
    strangers = [spec for spec in checkpoint.tensors.values() if spec.name not in expected]
    notes = [
        f"{spec.name} is {reason}: left out of every output"
        if (reason := no_weight(spec))
        else f"{spec.name} is not part of a {family.name} model"
        for spec in strangers
    ]
    tied = [role.name for role in expected.values() if role.role is Role.HEAD and role.optional]
    notes += [f"{name} is stored although it is tied to the embedding" for name in tied if name in checkpoint.tensors]
    return notes


def _check_tokenizer(checkpoint: Checkpoint) -> list[str]:
    """A broken tokenizer, or one of another model, is an error; a missing one and odd ones are noted."""
    try:
        return list(load_tokenizer(checkpoint).notes)
    except UnsupportedError as error:
        return [f"the model cannot read or write text: {error}"]


def _check_numbers(checkpoint: Checkpoint, spec: TensorSpec) -> list[str]:
    """Every number of a tensor is finite; notes an all-zero tensor."""
    if spec.format is None:
        return [f"{spec.name} holds {spec.dtype}: its numbers were not checked"]
    zero = True
    for start, end in row_slices(spec.shape, spec.format):
        values = to_float32(checkpoint.read(spec.name, start, end))
        finite = np.isfinite(values)
        if not finite.all():
            index = [int(i) for i in np.argwhere(~finite)[0]]
            index[0] += start
            raise VerificationError(f"{checkpoint.path}: {spec.name} holds NaN or infinity at index {index}")
        zero = zero and not values.any()
    return [f"{spec.name} is all zero"] if zero and spec.parameters else []
