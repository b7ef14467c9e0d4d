"""What this processor can do, and which kernels were chosen for it."""

from __future__ import annotations

import resource
import threading
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
"""Columns from which on products are cut into pieces, and these shared among threads."""


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


class _Exclusive:
    """Limits that hold for the whole process while any thread of it needs them: the last to leave lifts them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._depth = 0
        self._lift: Callable[[], None] = lambda: None

    @contextmanager
    def held(self, impose: Callable[[], Callable[[], None]]) -> Iterator[None]:
        """Impose limits unless they hold already; `impose` gives what lifts them."""
        with self._lock:
            if self._depth == 0:
                self._lift = impose()
            self._depth += 1
        try:
            yield
        finally:
            with self._lock:
                self._depth -= 1
                if self._depth == 0:
                    self._lift()


_BLAS = _Exclusive()
_PIECE = threading.local()


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Give each product of NumPy and SciPy one thread, until the block is left.

    With more, the order of a sum would depend on their number. What is wide is cut into pieces by its shape alone, and
    these are made side by side: see `halfpint.kernels.blas`. Several Python threads may be in such blocks at a time:
    the limit, which is the process's, holds until the last of them has left.
    """

    def impose() -> Callable[[], None]:
        lift: Callable[[], None] = _libraries().limit(limits=1, user_api="blas").restore_original_limits
        return lift

    with _BLAS.held(impose):
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
    count = thread_count()
    with one_blas_thread():
        if count == 1 or len(pieces) == 1:
            return [piece() for piece in pieces]
        with ThreadPoolExecutor(count, initializer=_native.use_one_thread_here) as executor:
            return [future.result() for future in [executor.submit(piece) for piece in pieces]]


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
