"""What a model's files hold that is no weight of it: left out of every output, each with a line in the plan."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from halfpint import families
from halfpint.checkpoints.checkpoint import Checkpoint
from halfpint.errors import UnsupportedError, UsageError
from halfpint.families.record import Role
from halfpint.plans import Rule
from halfpint.tensors import TensorSpec

TIED = "tied to the embedding, which is stored once"

_ACTIVATION_SCALE = "a scale of activations, of the file's own quantization"
_FREQUENCIES = "frequencies of rope, which follow from the configuration"
_MASK = "an attention mask, which follows from the positions"
_NO_WEIGHTS: tuple[tuple[str, int, str], ...] = (
    # Pattern of names, most axes, reason.
    (r"(^|\.)rotary_emb\.(inv_freq|original_inv_freq|cos_cached|sin_cached)$", 4, _FREQUENCIES),
    (r"(^|\.)(attn|attention|self_attn)\.masked_bias$", 1, _MASK),
    (r"(^|\.)(input|output|act|q|k|v|kv)_scale$", 2, _ACTIVATION_SCALE),
    (r"(^|\.)(input|output)_(zero_point|scale_ub|global_scale)$", 2, _ACTIVATION_SCALE),
    (r"(^|\.)(k_proj|v_proj|kv_cache)\.output_scale$", 2, _ACTIVATION_SCALE),
    (r"(^|\.)position_ids$", 2, "a list of positions"),
    (r"(^|\.)num_batches_tracked$", 0, "a counter of training"),
    (r"(^|\.)total_(ops|params)$", 1, "a count of operations by a profiler"),
)
_CAUSAL_MASK = re.compile(r"(^|\.)(attn|attention)\.bias$")


def no_weight(spec: TensorSpec) -> str:
    """Why a tensor that its family does not know is no weight; empty if it may be one."""
    if len(spec.shape) == 4 and _CAUSAL_MASK.search(spec.name):  # [1, 1, positions, positions]
        return _MASK
    for pattern, axes, reason in _NO_WEIGHTS:
        if len(spec.shape) <= axes and re.search(pattern, spec.name):
            return reason
    return ""


def left_out(source: Checkpoint, roles: Mapping[str, Role], rules: Sequence[Rule] = ()) -> dict[str, str]:
    """Tensors that no output holds, and why.

    Parameters
    ----------
    source : Checkpoint
    roles : Mapping of str to Role
    rules : sequence of Rule
        Those without a format drop what they match, unless a later one gives it a format.

    Returns
    -------
    dict of str to str
        Name -> reason, in the checkpoint's order.

    Raises
    ------
    UsageError
        If a rule drops what the model cannot run without.
    """
    tied = families.is_tied(source.config)
    needed = _needed(source)
    found: dict[str, str] = {}
    for spec in source.tensors.values():
        rule = next((rule for rule in reversed(rules) if rule.matches(spec.name)), None)
        role = roles.get(spec.name)
        if rule is not None and rule.format is None:
            if spec.name in needed:
                raise UsageError(
                    f"rule {rule.pattern!r} drops {spec.name}, which the model cannot run without; "
                    "give a pattern that spares it"
                )
            found[spec.name] = f"dropped by the rule {rule.pattern}"
        elif tied and role is Role.HEAD:
            found[spec.name] = TIED
        elif rule is None and spec.name not in needed and (reason := no_weight(spec)):
            found[spec.name] = reason
    return found


def _needed(source: Checkpoint) -> frozenset[str]:
    """Names of the tensors that the family wants; none of an unknown family."""
    family = families.find(source.config)
    if family is None:
        return frozenset()
    return frozenset(role.name for role in family.tensors(families.read_config(source.config)) if not role.optional)


def check_is_weight(source: Checkpoint, spec: TensorSpec, role: Role | None) -> None:
    """Refuse numbers that stand for no weight where one is multiplied: codes without their scales, integers, flags.

    Raises
    ------
    UnsupportedError
        Naming the tensor, its dtype and the scales that are missing.
    """
    named_so = spec.name.endswith(".weight") and len(spec.shape) > 1
    if spec.format is not None or not (named_so or role is not None) or not _is_code(spec.dtype):
        return
    scales = f"{spec.name}_scale_inv or {spec.name}_scale"
    missing = (
        f"and no scales beside them ({scales}): the download may be incomplete"
        if spec.dtype.startswith("F8_E4M3")
        else f"which are read as weights nowhere; scales beside them would be {scales}, and codes F8_E4M3"
    )
    raise UnsupportedError(
        f"{source.path}: {spec.name} {list(spec.shape)} holds {spec.dtype} numbers {missing}; "
        "start from the model's original"
    )


def _is_code(dtype: str) -> bool:
    return dtype.upper().startswith(("F8_", "F6_", "F4", "I8", "I16", "I32", "I64", "U8", "U16", "U32", "U64", "BOOL"))
