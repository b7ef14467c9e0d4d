"""What this processor can do, and which kernels were chosen for it."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

from threadpoolctl import ThreadpoolController

from halfpint.errors import UsageError
from halfpint.kernels import _native

_STATUS = Path("/proc/self/status")

NEEDS: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "avx512": frozenset({"avx2", "fma", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni"}),
        "avxvnni": frozenset({"avx2", "fma", "avx_vnni"}),
        "avx2": frozenset({"avx2", "fma"}),
        "neon": frozenset({"neon", "dotprod"}),
        "portable": frozenset(),
    }
)
"""Instruction sets that kernels are compiled for, fastest first, and the features each needs."""

_Result = TypeVar("_Result")

MOST_THREADS = 1024
"""Threads that may be asked for: more than processors have, and as many as systems give."""

WIDE_COLUMNS = 1024
"""Columns from which on the products of NumPy are shared among threads."""


def features() -> tuple[str, ...]:
    """Features of this processor that matter here."""
    return tuple(_native.cpu_features())


def chosen() -> str:
    """Name of the instruction set whose kernels run."""
    return _native.active_isa()


def explain() -> tuple[str, ...]:
    """One line per instruction set: what it needs, and whether it is in use, there, or missing something."""
    present = frozenset(features())
    lines = []
    for name, needs in NEEDS.items():
        missing = sorted(needs - present)
        state = "in use" if name == chosen() else "available" if not missing else f"needs {', '.join(missing)}"
        lines.append(f"{name}: {state}")
    return tuple(lines)


def set_thread_count(count: int) -> None:
    """Use this many threads in native code; results do not depend on it.

    Raises
    ------
    UsageError
        If the count is not from 1 to `MOST_THREADS`.
    """
    if not 1 <= count <= MOST_THREADS:
        raise UsageError(f"--threads {count}: give a number from 1 to {MOST_THREADS}")
    _native.set_thread_count(count)


def thread_count() -> int:
    """Threads that native code uses; by default the processors that this process may use."""
    return _native.thread_count()


def keep_freed_memory(kept_bytes: int) -> None:
    """Keep memory of freed arrays for the next ones, up to so many bytes, in place of giving it back at once.

    Reading a prompt makes and frees arrays of megabytes thousands of times; to get fresh pages for each takes a tenth
    of the time. Holds for the whole process, with glibc; elsewhere it does nothing.
    """
    _native.keep_freed_memory(kept_bytes)


@contextmanager
def product_threads(columns: int) -> Iterator[None]:
    """Give the products of NumPy and SciPy as many threads as pay, until the block is left.

    Parameters
    ----------
    columns : int
        Of the matrices that are multiplied. Narrow ones get one thread: the threads of BLAS wait for each other by
        spinning, which costs more than they gain there, and very much more where other programs want the processor.
    """
    wide = columns >= WIDE_COLUMNS
    with _libraries().limit(limits=thread_count() if wide else 1, user_api="blas"):
        yield


def side_by_side(pieces: Sequence[Callable[[], _Result]]) -> list[_Result]:
    """Do pieces of work in as many threads as native code has; each piece has one processor to itself.

    For work that is a chain of many steps, which need not wait for each other in different pieces. Products of NumPy
    and SciPy have one thread in any case, and so the same bits whatever the number of threads.

    Parameters
    ----------
    pieces : sequence of functions

    Returns
    -------
    list
        The results, in the order of the pieces. If some raise an error, the first of them in this order is raised.
    """
    before = thread_count()
    with _libraries().limit(limits=1, user_api="blas"):
        if before == 1 or len(pieces) == 1:
            return [piece() for piece in pieces]
        _native.set_thread_count(1)
        try:
            with ThreadPoolExecutor(before) as executor:
                return [future.result() for future in [executor.submit(piece) for piece in pieces]]
        finally:
            _native.set_thread_count(before)


@lru_cache(maxsize=1)
def _libraries() -> ThreadpoolController:
    """The BLAS libraries of this process: they are all loaded with this package."""
    return ThreadpoolController()


def peak_memory_bytes() -> int:
    """Most memory that this process ever held, pages of mapped files included.

    Where the kernel tells it of the program itself, that is what counts: what `getrusage` says begins with the memory
    of the process that started this one.
    """
    if _STATUS.exists():
        for line in _STATUS.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
