"""What this machine is, as far as it matters here."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path

from halfpint import formats
from halfpint.kernels import coding, integer_linear, linear, machine, probe
from halfpint.pipeline.results import DoctorReport
from halfpint.version import __version__

_PACKAGES = (
    "numpy",
    "ml-dtypes",
    "safetensors",
    "tokenizers",
    "jinja2",
    "click",
    "rich",
    "torch",
    "transformers",
)


def diagnose() -> DoctorReport:
    """Look at processor, memory and packages; measures the memory's bandwidth."""
    total, available = memory_bytes()
    return DoctorReport(
        version=__version__,
        python=platform.python_version(),
        platform=platform.platform(),
        processor=processor_name(),
        processors=machine.thread_count(),
        memory_bytes=total,
        available_memory_bytes=available,
        cpu_features=machine.features(),
        kernel=machine.chosen(),
        kernels=(*machine.explain(), *linear.explain().splitlines(), *integer_linear.explain().splitlines()),
        native_formats=tuple(name for name in formats.FORMATS if name in coding.NATIVE_FORMATS),
        read_bandwidth=probe.read_bandwidth(),
        packages={name: version for name in _PACKAGES if (version := installed_version(name))},
    )


def installed_version(package: str) -> str:
    """Version of an installed package; empty when it is not there."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def memory_bytes() -> tuple[int, int]:
    """Memory of this machine, and what of it is free for a new job."""
    page = os.sysconf("SC_PAGE_SIZE")
    total = os.sysconf("SC_PHYS_PAGES") * page
    table = Path("/proc/meminfo")
    if table.exists():
        for line in table.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return total, int(line.split()[1]) * 1024
    return total, total


def processor_name() -> str:
    """What the processor calls itself."""
    table = Path("/proc/cpuinfo")
    if table.exists():
        for line in table.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
