"""JSON from strangers: config.json and shard indexes, parsed strictly and within bounds of time and memory.

Python's parser alone accepts repeated keys (the last wins: two readers then see two files), NaN, and integers of
any length, and three bytes of text can become 64 bytes of list. So the text is counted before it is parsed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from halfpint.checkpoints.regular_file import read_small_file, without_mark
from halfpint.errors import CheckpointError

_DEEPEST = 64
"""Levels of nesting; real configurations stay below ten."""

_MOST_VALUES = 1_000_000
"""Commas, colons and brackets: what decides how much memory parsed values take, at about 64 bytes each."""

_LONGEST_NUMBER = 40
# The closing quote is optional so that a string without an end is passed over once, not once per quote in it.
_STRUCTURE = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[\[{]|[\]}]|[,:]|[0-9]{41,}', re.DOTALL)


def parse_json(data: bytes, what: str, *, non_finite: bool = False) -> Any:
    """Parse one JSON document.

    Parameters
    ----------
    data : bytes
        UTF-8; a byte order mark before it is ignored.
    what : str
        Names the document in errors.
    non_finite : bool
        Whether NaN, Infinity and numbers beyond float64 are read as floats, as Python's parser does and other tools
        with it. Who uses such a value must look at it: `halfpint.families.fields` does.

    Raises
    ------
    CheckpointError
        If it is UTF-16, is not JSON, repeats a key, nests deeper than 64 levels, holds numbers that are not finite
        without `non_finite`, an integer of more than 40 digits, a lone surrogate, or more than a million values.
    """
    data = without_mark(data, what)
    _count_structure(data, what)
    try:
        text = data.decode("utf-8")
        constant, number = (float, float) if non_finite else (_refuse_constant, _finite)
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=constant, parse_float=number)
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{what}: not UTF-8 at byte {error.start}") from error
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{what}: not JSON at line {error.lineno}: {error.msg}") from error
    except (_Refused, RecursionError) as error:
        raise CheckpointError(f"{what}: {error}") from error
    if b"\\u" in data:
        _check_surrogates(text, value, what)
    return value


def read_json_object(path: Path, limit: int) -> Mapping[str, Any]:
    """Read a file that holds one JSON object of at most `limit` bytes; numbers in it need not be finite.

    Raises
    ------
    CheckpointError
        If it is missing, too large, or not a JSON object as `parse_json` wants it.
    """
    value = parse_json(read_small_file(path, limit), str(path), non_finite=True)
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: holds a {type(value).__name__}, not a JSON object")
    return value


class _Refused(Exception):  # noqa: N818 - it never leaves this module
    """Carries a reason out of the parser's hooks."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _Refused(f"the key {key[:80]!r} appears twice in one object")
            seen.add(key)
    return result


def _refuse_constant(word: str) -> Any:
    raise _Refused(f"{word} is no JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise _Refused(f"the number {text[:40]} is too large")
    return value


def _count_structure(data: bytes, what: str) -> None:
    depth = values = 0
    for match in _STRUCTURE.finditer(data):
        token = match[0]
        first = token[0]
        if first in b"[{":
            depth += 1
            if depth > _DEEPEST:
                raise CheckpointError(f"{what}: nested deeper than {_DEEPEST} levels at byte {match.start()}")
        elif first in b"]}":
            depth -= 1
        elif first in b"0123456789":
            raise CheckpointError(f"{what}: a number of more than {_LONGEST_NUMBER} digits at byte {match.start()}")
        values += first != 0x22
        if values > _MOST_VALUES:
            raise CheckpointError(f"{what}: more than {_MOST_VALUES} values")


def _check_surrogates(text: str, value: Any, what: str) -> None:
    # Escapes can spell half of a surrogate pair, which is no character and cannot be a file name or be written.
    if re.search(r"\\u[dD][89abAB]|\\u[dD][c-fC-F]", text):
        try:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError as error:
            raise CheckpointError(f"{what}: an escape spells half of a surrogate pair") from error
