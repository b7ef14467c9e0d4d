"""From headers and wishes to a plan: which tensor gets which format, and which rule said so."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from halfpint import families, formats
from halfpint.checkpoints import CONTAINERS
from halfpint.checkpoints.checkpoint import Checkpoint, Container, OutputTensor
from halfpint.errors import UnsupportedError, UsageError
from halfpint.families.record import LINEAR_ROLES, NORM_ROLES, Role
from halfpint.planning import presets
from halfpint.planning.left_out import check_is_weight, left_out
from halfpint.planning.presets import Preset
from halfpint.plans import Plan, PlannedTensor, Rule, check_rules_match
from halfpint.solvers import feedback, needs_moments
from halfpint.tensors import Format, TensorSpec

DROP = "drop"
"""In the place of a solver: a tensor that is left out."""


@dataclass(frozen=True, slots=True)
class Assigned:
    """What one tensor is to become, decided tensor by tensor.

    Attributes
    ----------
    format : Format or None
        None copies the tensor.
    rule : str
        Who decided.
    solver : str
        The empty name takes the one that goes with the rest of the wish.
    """

    format: Format | None
    rule: str
    solver: str = ""


@dataclass(frozen=True, slots=True)
class Wish:
    """What the user asked for.

    Attributes
    ----------
    bits : int or None
        `--bits`: a preset of the container.
    format : Format or None
        `--format`: all linear weights.
    rules : sequence of Rule
        `--rule`: the last one that matches a tensor decides, before all else.
    calibrate : bool
        `--calibrate`: linear weights are solved with error feedback, where their format allows it.
    assigned : Mapping of str to Assigned
        By tensor: what a budget has chosen, or a plan file says. Rules still go before it.
    """

    bits: int | None = None
    format: Format | None = None
    rules: Sequence[Rule] = ()
    calibrate: bool = False
    assigned: Mapping[str, Assigned] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class _Choice:
    """A tensor's format before its shape is looked at; None copies."""

    format: Format | None
    rule: str
    solver: str = ""
    """The empty name: error feedback where it was wished for and can be, else nearest codes."""
    binding: bool = False
    """Chosen by the user's own rule: the container may not change it in silence, only refuse."""
    exact: bool = False
    """Decided for this very tensor: nothing else will do."""


def make_plan(source: Checkpoint, container: Container, wish: Wish, exact: bool = True) -> Plan:
    """Decide what every tensor of a checkpoint becomes. Reads headers only.

    Parameters
    ----------
    source : Checkpoint
    container : Container
        Of the output.
    wish : Wish
    exact : bool
        Whether `nbytes` counts headers and padding too, for which the output's header is laid out; without it
        only the tensors are counted, which takes no time.

    Returns
    -------
    Plan

    Raises
    ------
    UsageError
        If a rule matches nothing, or nothing was asked for.
    UnsupportedError
        If the container cannot hold a format that a rule demands, or has no preset for these bits.
    """
    check_rules_match(wish.rules, list(source.tensors))
    _check_container_holds(container, wish)
    preset = _preset(container.name, wish)
    roles = roles_of(source)
    dropped = left_out(source, roles, wish.rules)
    dropped |= {name: "dropped by the plan file" for name, told in wish.assigned.items() if told.solver == DROP}
    for spec in source.tensors.values():
        if spec.name not in dropped:
            check_is_weight(source, spec, roles.get(spec.name))
    planned = []
    tied = families.is_tied(source.config)
    for spec in source.tensors.values():
        if spec.name in dropped:
            continue
        choice = _choose(spec, roles.get(spec.name), preset, wish)
        fitted = _fit(spec, choice, container)
        sees_inputs = _sees_inputs(roles.get(spec.name), tied)
        _check_solver(fitted, sees_inputs)
        wished = wish.calibrate and not choice.solver and sees_inputs
        planned.append(_calibrated(fitted) if wished else fitted)
    parameters = sum(tensor_parameters(tensor) for tensor in planned)
    nbytes = container.size(source, outputs_of(planned, source)) if exact else sum(t.nbytes for t in planned)
    notes = (*source.notes, *container.notes(source))
    return Plan(container.name, tuple(planned), tuple(dropped.items()), nbytes, parameters, notes)


def outputs_of(planned: Sequence[PlannedTensor], source: Checkpoint) -> list[OutputTensor]:
    """The same tensors in the words of a container."""
    return [OutputTensor(t.name, t.shape, t.format, source.tensors[t.name].dtype) for t in planned]


def model_parameters(source: Checkpoint) -> int:
    """Parameters that a plan counts: of every tensor, tied ones once."""
    spared = left_out(source, roles_of(source))
    return sum(spec.parameters for spec in source.tensors.values() if spec.name not in spared)


def tensor_parameters(tensor: PlannedTensor) -> int:
    """Number of elements."""
    return math.prod(tensor.shape)


def roles_of(source: Checkpoint) -> Mapping[str, Role]:
    """What each tensor does: by the family's wiring when it is known, else guessed from its name."""
    family = families.find(source.config)
    if family is not None:
        config = families.read_config(source.config)
        return {role.name: role.role for role in family.tensors(config)}
    return {name: role for name in source.tensors if (role := guess_role(name)) is not None}


_GUESSES: tuple[tuple[str, Role], ...] = (
    (r"(^|\.)(lm_head|output)\.weight$", Role.HEAD),
    (r"embed|wte|tok_embeddings|word_embeddings|token_embd", Role.EMBEDDING),
    (r"norm|(^|\.)ln_?\d*\.", Role.FINAL_NORM),
    (r"(router|mlp\.gate|block_sparse_moe\.gate|ffn_gate_inp)\.weight$", Role.ROUTER),
)


def guess_role(name: str) -> Role | None:
    """The role that a name suggests in a model of no known family; None for any other weight."""
    for pattern, role in _GUESSES:
        if re.search(pattern, name):
            return role
    return None


# A weight that every format takes: when the container refuses it, the shape is not to blame.
_PROBE = ("model.layers.0.mlp.up_proj.weight", (256, 1024))


def _check_container_holds(container: Container, wish: Wish) -> None:
    """Refuse a format that the user named and the container cannot hold at all: floats instead would be no answer."""
    named = [rule.format for rule in wish.rules if rule.format] + ([] if wish.format is None else [wish.format])
    for fmt in named:
        reason = container.refusal(OutputTensor(*_PROBE, fmt, "F32"))
        if reason is not None:
            others = [
                each.name for each in CONTAINERS.values() if each.refusal(OutputTensor(*_PROBE, fmt, "F32")) is None
            ]
            hint = f"; --to {' or '.join(others)} holds it" if others else ""
            raise UnsupportedError(f"{fmt.name} with --to {container.name}: {reason}{hint}")


def _preset(container: str, wish: Wish) -> Preset:
    if wish.bits is not None and wish.format is not None:
        raise UsageError("give either --bits or --format, not both")
    if wish.bits is not None:
        return presets.preset(container, wish.bits)
    if wish.format is None:
        if wish.rules or wish.assigned:
            return Preset("", "")
        raise UsageError(
            "say what you want: a budget (--size 3.5GB, --bpw 4.25, --fit 8GB), --bits 4, --format q4_k, "
            "or --rule PATTERN=FORMAT"
        )
    if container != "gguf":
        return Preset(wish.format.name, "")
    embedding = wish.format if wish.format.bits >= 6 else formats.by_name("q6_k")
    return Preset(wish.format.name, embedding.name)


def _choose(spec: TensorSpec, role: Role | None, preset: Preset, wish: Wish) -> _Choice:
    for rule in reversed(wish.rules):
        if rule.matches(spec.name):
            return _Choice(rule.format, f"rule {rule.pattern}", binding=True)
    assigned = wish.assigned.get(spec.name)
    if assigned is not None:
        return _Choice(assigned.format, assigned.rule, assigned.solver, exact=True)
    if spec.format is None:
        return _Choice(None, f"{spec.dtype} is copied")
    if len(spec.shape) != 2:
        return _Choice(None, f"{len(spec.shape)}-dimensional tensors are copied")
    if role in NORM_ROLES or role is Role.ROUTER:
        return _Choice(None, "norms and routers are copied")
    if role in (Role.EMBEDDING, Role.HEAD):
        return _named(preset.embedding, "embedding")
    for exception, name in preset.exceptions:
        if role is not None and role.value == exception:
            return _named(name, exception)
    return _named(preset.linear, "linear")


def _named(name: str, rule: str) -> _Choice:
    if not name:
        return _Choice(None, f"{rule}: kept")
    return _Choice(formats.by_name(name), f"{rule}: {name}")


def _fit(spec: TensorSpec, choice: _Choice, container: Container) -> PlannedTensor:
    """Take the chosen format, or the nearest that shape and container allow, and say why."""
    note = ""
    for fmt in _candidates(spec, choice):
        reason = refusal(spec, fmt, container)
        if reason is None:
            if choice.exact and choice.solver == "copy" and fmt is not None and fmt != spec.format:
                raise UsageError(f"{spec.name} is {spec.dtype}: the solver 'copy' cannot make it {fmt.name}")
            solver = "copy" if fmt is None or fmt == spec.format else choice.solver or "nearest"
            why, advice, _ = note.partition("; ")
            if advice:  # in place of what one might choose, what was chosen
                note = f"{why}: {fmt.name if fmt else 'a copy'} instead"
            return PlannedTensor(spec.name, spec.shape, fmt, solver, choice.rule, note, nbytes_of(spec, fmt))
        if choice.binding and fmt is choice.format and len(spec.shape) != 2:
            raise UnsupportedError(f"{spec.name}: {reason}")
        if choice.exact and fmt is choice.format:
            raise UnsupportedError(f"{spec.name} cannot be {fmt.name if fmt else 'copied'}: {reason}")
        note = note or reason
    raise UnsupportedError(f"{spec.name}: {note}")


def _sees_inputs(role: Role | None, tied: bool) -> bool:
    """Whether vectors are multiplied with a tensor of this role, so that its solver can look at them."""
    return role in LINEAR_ROLES or role is Role.HEAD or (tied and role is Role.EMBEDDING)


def _check_solver(tensor: PlannedTensor, sees_inputs: bool) -> None:
    """Refuse a solver that a plan file names and that cannot fill this tensor."""
    if tensor.solver == "copy" or not needs_moments(tensor.solver):
        return
    if not sees_inputs or tensor.format is None or not feedback.supports(tensor.format):
        name = "copies" if tensor.format is None else tensor.format.name
        raise UnsupportedError(
            f"{tensor.name}: the solver {tensor.solver!r} is for linear layers and heads of known families, and not "
            f"for {name} here; write nearest"
        )


def _calibrated(tensor: PlannedTensor) -> PlannedTensor:
    """Let error feedback solve a weight, if its format allows it."""
    if tensor.solver == "nearest" and tensor.format and feedback.supports(tensor.format):
        return replace(tensor, solver="feedback")
    return tensor


def _candidates(spec: TensorSpec, choice: _Choice) -> list[Format | None]:
    if choice.format is None:
        return [*_floats(spec)] if spec.dtype == "F64" else [spec.format, *_floats(spec)]
    return [choice.format, *presets.fallbacks(choice.format), *_floats(spec)]


def _floats(spec: TensorSpec) -> list[Format | None]:
    """Plain floats that a tensor may be stored in without loss that matters, smallest first."""
    names = ["f32"] if len(spec.shape) != 2 or spec.dtype.upper() in ("F32", "F64") else ["f16", "bf16", "f32"]
    if spec.dtype.upper() == "BF16":
        names = ["bf16", "f32"]
    return [formats.by_name(name) for name in names]


def refusal(spec: TensorSpec, fmt: Format | None, container: Container) -> str | None:
    """Why this tensor cannot be stored so; None when it can."""
    if fmt is not None and fmt != spec.format:
        if len(spec.shape) != 2 and fmt.bits < 16:
            return f"{len(spec.shape)}-dimensional tensors cannot be quantized"
        if len(spec.shape) == 2:
            reason = fmt.refusal(*spec.shape)
            if reason is not None:
                return reason
    return container.refusal(OutputTensor(spec.name, spec.shape, fmt, spec.dtype))


def nbytes_of(spec: TensorSpec, fmt: Format | None) -> int:
    """Bytes of a tensor in a format, headers and padding not counted."""
    if fmt is None or (fmt == spec.format and spec.dtype != "F64"):
        return spec.nbytes
    if len(spec.shape) == 2:
        return fmt.stored_bytes(*spec.shape)
    return fmt.stored_bytes(1, spec.parameters)
