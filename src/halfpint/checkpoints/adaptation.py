"""A folder as people really have it, seen as its family's: prefixes of names, and heads that are tied or not.

Only what is unambiguous is changed, and each change is a note, which `verify` and the plan show.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from halfpint import families
from halfpint.checkpoints.stored import StoredTensor
from halfpint.errors import HalfpintError
from halfpint.families.record import Role, TensorRole
from halfpint.formats import decode
from halfpint.tensors import Array, QuantizedTensor, TensorSpec, row_slices

PREFIXES = ("_orig_mod.", "module.", "base_model.model.", "model.")
"""What torch.compile, DataParallel, PEFT and wrappers put before names."""


@dataclass(frozen=True, slots=True)
class RenamedTensor:
    """A stored tensor under another name."""

    spec: TensorSpec
    stored: StoredTensor

    def read(self, start_row: int, end_row: int) -> Array | QuantizedTensor:
        """Read rows [start_row, end_row)."""
        return self.stored.read(start_row, end_row)


def adapted(
    config: Mapping[str, Any], stored: Mapping[str, StoredTensor]
) -> tuple[Mapping[str, Any], dict[str, StoredTensor], list[str]]:
    """See a folder's tensors under the names of its family, and its head as tied only where it is.

    Parameters
    ----------
    config : Mapping
        config.json.
    stored : Mapping of str to StoredTensor
        In file order, which is kept.

    Returns
    -------
    Mapping, dict of str to StoredTensor, list of str
        The configuration, the tensors, and notes on what was changed.

    Notes
    -----
    transformers ties a head to the embedding when config.json says so, and loads either one for both. A fine-tune that
    trained its head apart but kept the word in config.json holds two different tensors: then they are not tied.
    """
    found, notes = dict(stored), list[str]()
    roles = _roles(config)
    if roles is None:
        return config, found, notes
    found = _without_prefixes(found, roles, notes)
    by_role = {role.role: role.name for role in roles if role.layer is None}
    embedding, head = by_role.get(Role.EMBEDDING, ""), by_role.get(Role.HEAD, "lm_head.weight")
    if not families.is_tied(config) or head not in found:
        return config, found, notes
    if embedding not in found:
        notes.append(f"{embedding} is not stored; {head}, which is tied to it, stands for both")
        names = [embedding if name == head else name for name in found]
        return config, {new: _renamed(new, found[old]) for new, old in zip(names, found, strict=True)}, notes
    if _same(found[embedding], found[head]):
        return config, found, notes
    notes.append(
        f"{head} is tied to {embedding} by the configuration, but it is stored with other values: taken as untied"
    )
    return {**config, "tie_word_embeddings": False}, found, notes


def _roles(config: Mapping[str, Any]) -> tuple[TensorRole, ...] | None:
    """What the family expects; None of an unknown one, or of a configuration that is refused where it is used."""
    try:
        family = families.find(config)
        return None if family is None else tuple(family.tensors(families.read_config(config)))
    except HalfpintError:
        return None


def _without_prefixes(
    stored: dict[str, StoredTensor], roles: Collection[TensorRole], notes: list[str]
) -> dict[str, StoredTensor]:
    """Take prefixes off, or put the missing `model.` before names, where that gives the family all of its tensors."""
    needed = {role.name for role in roles if not role.optional}
    tied = {role.name for role in roles if role.role in (Role.EMBEDDING, Role.HEAD)}
    if not (needed - tied - set(stored)):
        return stored
    known = {role.name for role in roles}
    for change in (_stripped, _model_added):
        names = {name: change(name, known) for name in stored}
        changed = next(((old, new) for old, new in names.items() if old != new), None)
        if changed and len(set(names.values())) == len(names) and not (needed - tied - set(names.values())):
            notes.append(f"names of tensors are read as the family's: {changed[0]} as {changed[1]}")
            return {new: _renamed(new, stored[old]) for old, new in names.items()}
    return stored


def _stripped(name: str, known: Collection[str]) -> str:
    """Take prefixes off until the name is known; one that never is keeps what is left after torch's own."""
    rest = name
    while rest not in known:
        prefix = next((prefix for prefix in PREFIXES if rest.startswith(prefix)), "")
        if not prefix:
            break
        rest = rest.removeprefix(prefix)
    if rest in known:
        return rest
    for prefix in PREFIXES[:-1]:
        name = name.removeprefix(prefix)
    return name


def _model_added(name: str, known: Collection[str]) -> str:
    return name if name in known else f"model.{name}"


def _renamed(name: str, stored: StoredTensor) -> StoredTensor:
    return stored if stored.spec.name == name else RenamedTensor(replace(stored.spec, name=name), stored)


def _same(first: StoredTensor, second: StoredTensor) -> bool:
    """Whether two stored tensors hold the same numbers, in whatever format; read in slices."""
    one, other = first.spec, second.spec
    alike = (one.dtype, one.format) == (other.dtype, other.format)
    if one.shape != other.shape or (not alike and None in (one.format, other.format)):
        return False
    taken = _bytes_of if alike else _values_of
    return all(
        taken(first.read(start, end)) == taken(second.read(start, end))
        for start, end in row_slices(one.shape, one.format, other.format)
    )


def _bytes_of(value: Array | QuantizedTensor) -> list[bytes]:
    if isinstance(value, QuantizedTensor):
        return [value.parts[name].tobytes() for name in sorted(value.parts)]
    return [value.tobytes()]


def _values_of(value: Array | QuantizedTensor) -> list[bytes]:
    values = decode(value) if isinstance(value, QuantizedTensor) else value.astype(np.float32, copy=False)
    return [(values + np.float32(0)).tobytes()]  # -0 becomes 0
