"""Plans as TOML files that a person can read and edit.

    container = "gguf"
    parameters = 6820608
    fingerprint = "9c0f..."      # of the names and shapes of the model's tensors

    [tensors]
    "model.embed_tokens.weight" = { format = "q6_k", solver = "nearest" }
    "model.norm.weight" = { format = "f32", solver = "copy" }

The format of a tensor that is copied byte for byte, and has no numeric format, is the empty name.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from halfpint import formats, solvers
from halfpint.checkpoints.checkpoint import Checkpoint
from halfpint.checkpoints.regular_file import marked_encoding
from halfpint.errors import HalfpintError, UsageError
from halfpint.planning.left_out import left_out
from halfpint.planning.planner import DROP, Assigned, roles_of
from halfpint.plans import Plan
from halfpint.tensors import Format

_MOST_BYTES = 256 * 2**20
_COPY = "copy"
_HEAD_KEYS = {"container": str, "parameters": int, "fingerprint": str, "tensors": dict}
_HEADER = "# A plan of halfpint: change formats and solvers as you like, then give it to `quantize --plan`.\n"


@dataclass(frozen=True, slots=True)
class PlanFile:
    """What a plan file says.

    Attributes
    ----------
    container : str
    parameters : int
    fingerprint : str
        Of the model that the plan was made for.
    tensors : Mapping of str to Assigned
        In the order of the file.
    """

    container: str
    parameters: int
    fingerprint: str
    tensors: Mapping[str, Assigned]


def fingerprint(source: Checkpoint) -> str:
    """Hash the names and shapes of a model's tensors: the same for every precision and container of one model."""
    lines = sorted(f"{spec.name} {list(spec.shape)}\n" for spec in source.tensors.values())
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:32]


def plan_file(plan: Plan, source: Checkpoint) -> PlanFile:
    """Put a plan into the words of a file."""
    tensors = {tensor.name: Assigned(tensor.format, "", tensor.solver) for tensor in plan.tensors}
    always = left_out(source, roles_of(source))
    tensors |= {name: Assigned(None, "", DROP) for name, _ in plan.dropped if name not in always}
    return PlanFile(plan.container, plan.parameters, fingerprint(source), tensors)


def dumps(file: PlanFile) -> str:
    """Write a plan file; `loads` of it gives the same record."""
    lines = [
        _HEADER,
        f"container = {_quoted(file.container)}",
        f"parameters = {file.parameters}",
        f"fingerprint = {_quoted(file.fingerprint)}",
        "",
        "[tensors]",
    ]
    for name, tensor in file.tensors.items():
        fmt = "" if tensor.format is None else tensor.format.name
        lines.append(f"{_quoted(name)} = {{ format = {_quoted(fmt)}, solver = {_quoted(tensor.solver)} }}")
    return "\n".join(lines) + "\n"


def loads(text: str, where: str = "plan file") -> PlanFile:
    """Read a plan file.

    Parameters
    ----------
    text : str
    where : str
        Its name, for messages.

    Raises
    ------
    UsageError
        If it is no TOML or not a plan; line and tensor are named.
    """
    try:
        parsed = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{where}: {error}") from error
    except RecursionError:
        raise UsageError(f"{where}: its values are nested too deeply for a plan") from None
    _check_keys(parsed, _HEAD_KEYS, where)
    tensors: dict[str, Assigned] = {}
    for name, value in parsed["tensors"].items():
        place = f"{where}{_line_of(text, name)}: {name}"
        if not isinstance(value, dict):
            raise UsageError(f'{place}: write {{ format = "q4_k", solver = "nearest" }}')
        _check_keys(value, {"format": str, "solver": str}, place)
        try:
            tensors[name] = _assigned(value["format"], value["solver"], Path(where).name)
        except HalfpintError as error:
            raise UsageError(f"{place}: {error}") from error
    return PlanFile(parsed["container"], parsed["parameters"], parsed["fingerprint"], tensors)


def read(path: Path) -> PlanFile:
    """Read a plan file from disk.

    Raises
    ------
    UsageError
        If it is missing, too large, not UTF-8, or no plan.
    """
    try:
        if path.exists() and not path.is_file():
            raise UsageError(f"the plan {path} is no regular file, so it is not read")
        if path.stat().st_size > _MOST_BYTES:
            raise UsageError(f"{path} is larger than any plan; is it a model?")
        return loads(path.read_text(encoding="utf-8-sig"), str(path))
    except UnicodeDecodeError as error:
        found = marked_encoding(error.object) or f"not UTF-8 at byte {error.start}"
        raise UsageError(f"the plan {path} cannot be read: it is {found}; save it as UTF-8") from error
    except OSError as error:
        raise UsageError(f"the plan {path} cannot be read: {error}") from error


def write(path: Path, file: PlanFile) -> None:
    """Write a plan file to disk, over an older one.

    Raises
    ------
    UsageError
        If it cannot be written.
    """
    try:
        path.write_text(dumps(file), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"the plan {path} cannot be written: {error}") from error


def check_model(file: PlanFile, source: Checkpoint, where: str = "the plan") -> None:
    """Refuse a plan that was made for another model.

    Raises
    ------
    UsageError
        That says so, or, where only the lines were edited, names the tensor that is too many or missing.
    """
    if fingerprint(source) != file.fingerprint:
        raise UsageError(
            f"{where} was made for another model: the names or shapes of its tensors are not those of {source.path} "
            f"(fingerprint {fingerprint(source)}, the plan says {file.fingerprint})"
        )
    strangers = [name for name in file.tensors if name not in source.tensors]
    if strangers:
        raise UsageError(f"{where} says too much: {source.path} has no tensor {strangers[0]}; remove its line")
    spared = left_out(source, roles_of(source))
    missing = [name for name in source.tensors if name not in file.tensors and name not in spared]
    if missing:
        raise UsageError(f"{where} says nothing of {missing[0]}; give it a line")


def _assigned(format_name: str, solver: str, rule: str) -> Assigned:
    fmt: Format | None = formats.by_name(format_name) if format_name else None
    if solver not in (_COPY, DROP):
        solvers.by_name(solver)
        if fmt is None:
            raise UsageError(f"the solver {solver!r} needs a format; the empty format is for copies")
    return Assigned(fmt, rule, solver)


def _check_keys(value: Mapping[str, Any], keys: Mapping[str, type], place: str) -> None:
    for key, kind in keys.items():
        if key not in value:
            raise UsageError(f"{place}: {key!r} is missing")
        if type(value[key]) is not kind:
            raise UsageError(f"{place}: {key!r} must be {_KINDS[kind]}, not {value[key]!r}")
    unknown = sorted(set(value) - set(keys))
    if unknown:
        raise UsageError(f"{place}: {unknown[0]!r} is no key of a plan; there are: {', '.join(keys)}")


_KINDS: Mapping[type, str] = {str: "a string", int: "a whole number", dict: "a table"}


def _line_of(text: str, name: str) -> str:
    """Where a tensor's line is, for messages; nothing when it is written in some other way than ours."""
    pattern = re.compile(rf"\s*(?:{re.escape(_quoted(name))}|'{re.escape(name)}'|{re.escape(name)})\s*[=.]")
    for number, line in enumerate(text.splitlines(), start=1):
        if pattern.match(line):
            return f", line {number}"
    return ""


def _quoted(text: str) -> str:
    """A TOML basic string."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c >= " " and c != "\x7f" else f"\\u{ord(c):04x}" for c in escaped) + '"'
