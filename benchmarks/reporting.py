"""What every benchmark says of itself: the machine, the versions, the command, a table, and the numbers as JSON."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import halfpint

VERSIONS = ("numpy", "torch", "transformers")


def setting() -> dict[str, Any]:
    """Describe what ran: machine, versions and command."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "processor": _processor(),
        "processors": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {"halfpint": halfpint.__version__, **{name: _version(name) for name in VERSIONS}},
        "command": shlex.join(["python", os.path.relpath(sys.argv[0]), *sys.argv[1:]]),
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def print_setting() -> None:
    """Print the same in three lines."""
    told = setting()
    print(f"{told['date']}  {told['processor']}, {told['processors']} CPUs, Python {told['python']}")
    print("  ".join(f"{name} {version}" for name, version in told["versions"].items()))
    print(told["command"], flush=True)


def save(path: Path | None, rows: Sequence[Mapping[str, Any]], **more: Any) -> None:
    """Write the rows, and what ran, as JSON; nowhere if there is no path."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {**setting(), **more, "rows": list(rows)}
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def line(row: Mapping[str, Any], forms: Mapping[str, str]) -> str:
    """One row of a table; `forms` gives each column's key and form (`>8.5f`), and what is missing is a dash."""
    cells = []
    for key, form in forms.items():
        value = row.get(key)
        width = form.lstrip("<>").partition(".")[0].rstrip("defgs%+")
        cells.append(format("-" if value is None else value, form if value is not None else f">{width or 1}"))
    return "  ".join(cells)


def heading(forms: Mapping[str, str]) -> str:
    """Titles above the columns of `line`."""
    titles = []
    for key, form in forms.items():
        width = form.lstrip("<>").partition(".")[0].rstrip("defgs%+")
        titles.append(format(key, ("<" if form.startswith("<") else ">") + (width or "1")))
    return "  ".join(titles)
