"""What config.json says of a compressed-tensors folder: read from anybody's, written for ours.

`quantization_config` holds `config_groups`; each group has `weights` (bits, type, symmetric, strategy, group size)
and `targets`: names of modules, regular expressions after `re:`, or the class name `Linear`
(https://github.com/vllm-project/compressed-tensors, `quantization/quant_config.py` and `quant_args.py`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from halfpint.errors import CheckpointError, UnsupportedError
from halfpint.formats.affine import Affine
from halfpint.formats.float8 import Float8
from halfpint.tensors import Format

PACKED = "pack-quantized"
METHOD = "compressed-tensors"
_READ = frozenset({PACKED, "int-quantized", "naive-quantized", "float-quantized", "mixed-precision", "dense"})
_MOST_GROUPS = 1_000
_EXPERT = re.compile(r"(.*\.experts)\.(\d+)\.(\w+)")


@dataclass(frozen=True, slots=True)
class Scheme:
    """How one group of modules is quantized.

    Attributes
    ----------
    bits : int
    symmetric : bool
    group_size : int
        0 for whole rows.
    targets : tuple of str
        Which modules it speaks of.
    """

    bits: int
    symmetric: bool
    group_size: int
    targets: tuple[str, ...]


def quantization_of(config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Give the compressed-tensors section of a configuration; None when there is none."""
    for key in ("quantization_config", "compression_config"):
        section = config.get(key)
        if not isinstance(section, Mapping):
            continue
        if section.get("quant_method", METHOD if "config_groups" in section else None) == METHOD:
            return section
    return None


def read_schemes(section: Mapping[str, Any]) -> tuple[Scheme, ...]:
    """Read the integer schemes of `config_groups`; 8-bit floats speak for themselves through their tensors.

    Raises
    ------
    CheckpointError
        If a group is not what the format says.
    UnsupportedError
        If a group uses something that is not read: other formats, reordered columns, sparsity.
    """
    _check_format(section.get("format"))
    sparsity = section.get("sparsity_config")
    if isinstance(sparsity, Mapping) and sparsity.get("format") not in (None, "dense"):
        raise UnsupportedError(f"config.json: sparsity {sparsity.get('format')!r} is not read")
    groups = section.get("config_groups")
    if not isinstance(groups, Mapping) or len(groups) > _MOST_GROUPS:
        raise CheckpointError(f"config.json: config_groups is not an object of at most {_MOST_GROUPS} groups")
    schemes = []
    for name, group in groups.items():
        if not isinstance(group, Mapping) or not isinstance(group.get("weights"), Mapping):
            raise CheckpointError(f"config.json: config_groups.{name[:40]} has no weights; presets are not read")
        _check_format(group.get("format"))
        scheme = _read_scheme(name[:40], group["weights"], group.get("targets"))
        if scheme is not None:
            schemes.append(scheme)
    return tuple(schemes)


def choose_scheme(module: str, fitting: Sequence[Scheme]) -> Scheme:
    """Choose among the schemes that fit a module's shapes; `targets` are only asked when shapes leave a doubt.

    Expressions are compared with those that `targets_of` writes and never run: a stranger's expression can take
    for ever, and shapes leave no doubt but for rows so short that they are one group in either scheme.

    Raises
    ------
    CheckpointError
        If none fits, or several fit and targets do not say which.
    """
    if not fitting:
        raise CheckpointError(
            f"{module}: no group of config.json fits the shapes of its tensors; the folder is broken or incomplete"
        )
    if _same(fitting):
        return fitting[0]
    named = [scheme for scheme in fitting if any(_names(target, module) for target in scheme.targets)]
    if named and _same(named):
        return named[0]
    raise CheckpointError(
        f"{module}: {len(fitting)} groups of config.json fit, and no target names the module; "
        "write its name into the targets of its group"
    )


def quantization_section(formats: Mapping[str, Format], ignored: Sequence[str]) -> Mapping[str, Any]:
    """Write `quantization_config` for modules in integer or 8-bit float formats.

    Parameters
    ----------
    formats : Mapping of str to Format
        Module name (no `.weight`) to Affine or Float8.
    ignored : sequence of str
        Linear modules that stay as they are.

    Returns
    -------
    Mapping
        With one group per distinct kind of weights. A single group targets `Linear`, which every version of every
        loader knows; several name their modules one by one, experts by regular expressions.
    """
    groups: dict[tuple[str, ...], list[str]] = {}
    weights: dict[tuple[str, ...], tuple[str, Mapping[str, Any]]] = {}
    for module, fmt in formats.items():
        word, arguments = _weight_arguments(fmt)
        key = (word, *(str(value) for value in arguments.values()))
        groups.setdefault(key, []).append(module)
        weights[key] = (word, arguments)
    config_groups = {}
    for index, (key, modules) in enumerate(groups.items()):
        word, arguments = weights[key]
        config_groups[f"group_{index}"] = {
            "targets": ["Linear"] if len(groups) == 1 else targets_of(modules),
            "weights": dict(arguments),
            "input_activations": None,
            "output_activations": None,
            "format": word,
        }
    words = {word for word, _ in weights.values()}
    return {
        "quant_method": METHOD,
        "format": words.pop() if len(words) == 1 else "mixed-precision",
        "quantization_status": "compressed",
        "global_compression_ratio": None,
        "kv_cache_scheme": None,
        "ignore": list(ignored),
        "config_groups": config_groups,
    }


def targets_of(modules: Iterable[str]) -> list[str]:
    """Say which modules: plain names, and for experts one expression per projection and set of experts.

    A model of 60 layers with 256 experts has 46,080 expert modules, and loaders compare each module with each
    target: plain names would take them billions of comparisons.
    """
    plain: list[str] = []
    experts: dict[tuple[str, str], list[int]] = {}
    for module in modules:
        match = _EXPERT.fullmatch(module)
        if match is None:
            plain.append(module)
        else:
            experts.setdefault((match[1], match[3]), []).append(int(match[2]))
    expressions = [
        f"re:{re.escape(prefix)}\\.({'|'.join(map(str, sorted(numbers)))})\\.{projection}$"
        for (prefix, projection), numbers in experts.items()
    ]
    return plain + expressions


def _weight_arguments(fmt: Format) -> tuple[str, Mapping[str, Any]]:
    if isinstance(fmt, Float8):
        arguments: dict[str, Any] = {"num_bits": 8, "type": "float", "symmetric": True, "dynamic": False}
        if fmt.block:
            return "float-quantized", {**arguments, "strategy": "block", "block_structure": [fmt.block, fmt.block]}
        return "float-quantized", {**arguments, "strategy": "channel"}
    assert isinstance(fmt, Affine)
    arguments = {"num_bits": fmt.bits, "type": "int", "symmetric": fmt.symmetric, "dynamic": False}
    if fmt.group_size:
        return PACKED, {**arguments, "strategy": "group", "group_size": fmt.group_size}
    return PACKED, {**arguments, "strategy": "channel"}


def _check_format(word: object) -> None:
    if word is not None and word not in _READ:
        raise UnsupportedError(
            f"config.json: the compressed-tensors format {word!r} is not read yet; read are {', '.join(sorted(_READ))}"
        )


def _read_scheme(name: str, weights: Mapping[str, Any], targets: object) -> Scheme | None:
    where = f"config.json: config_groups.{name}"
    if weights.get("type") == "float":
        return None
    bits, group_size = weights.get("num_bits"), weights.get("group_size")
    strategy, symmetric = weights.get("strategy"), weights.get("symmetric", True)
    if weights.get("type", "int") != "int" or type(bits) is not int or not 2 <= bits <= 8:
        raise UnsupportedError(f"{where}: type {weights.get('type')!r} of {bits!r} bits is not read; int of 2 to 8 is")
    if weights.get("actorder") in (True, "group", "dynamic"):
        raise UnsupportedError(f"{where}: columns reordered by activation (actorder) are not read")
    if type(symmetric) is not bool or not isinstance(targets, list):
        raise CheckpointError(f"{where}: symmetric is no boolean, or targets no list")
    if not all(isinstance(target, str) for target in targets):
        raise CheckpointError(f"{where}: a target is not a string")
    if strategy is None:
        strategy = "group" if type(group_size) is int and group_size > 0 else "channel"
    if strategy == "group" and (type(group_size) is not int or not 1 <= group_size < 2**31):
        raise CheckpointError(f"{where}: group_size is {group_size!r}")
    if strategy not in ("group", "channel", "tensor"):
        raise UnsupportedError(f"{where}: the strategy {strategy!r} is not read; group, channel and tensor are")
    return Scheme(bits, symmetric, int(group_size or 0) if strategy == "group" else 0, tuple(targets))


def _same(schemes: Sequence[Scheme]) -> bool:
    return len({(scheme.bits, scheme.group_size) for scheme in schemes}) == 1


def _names(target: str, module: str) -> bool:
    """Whether a target of the kinds that `targets_of` writes names the module."""
    expert = _EXPERT.fullmatch(module)
    if target == module or expert is None:
        return target == module
    start, end = f"re:{re.escape(expert[1])}\\.(", f")\\.{expert[3]}$"
    if not (target.startswith(start) and target.endswith(end)):
        return False
    return expert[2] in target[len(start) : -len(end)].split("|")
