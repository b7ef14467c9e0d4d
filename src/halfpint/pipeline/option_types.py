"""The types of options, checked when they are given and not where they are first used."""

from __future__ import annotations

import types
import typing
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from halfpint.errors import UsageError


class TypedOptions:
    """A frozen record whose fields have the types that they are declared with; ints pass for floats."""

    __slots__ = ()

    def check_types(self) -> None:
        """Refuse values of other types.

        Raises
        ------
        UsageError
            Naming the field and what it takes.
        """
        kind = type(self)
        for name, hint in _hints(kind).items():
            value = getattr(self, name)
            if not _is(value, hint):
                shown = repr(value)
                shown = shown if len(shown) <= 80 else f"{shown[:80]}..."
                wanted = getattr(hint, "__name__", str(hint)) if isinstance(hint, type) else str(hint)
                raise UsageError(
                    f"{kind.__name__}: {name} = {shown} must be {wanted.replace('halfpint.pipeline.', '')}"
                )


def _hints(kind: type) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind)}


def _is(value: Any, hint: Any) -> bool:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_is(value, each) for each in arguments)
    if origin is typing.Literal:
        return value in arguments
    if origin is not None and isinstance(origin, type) and issubclass(origin, Sequence):
        return (
            isinstance(value, origin) and not isinstance(value, str) and all(_is(each, arguments[0]) for each in value)
        )
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is Path:
        return isinstance(value, Path | str)
    return not isinstance(hint, type) or isinstance(value, hint)
