"""What this processor can do, and which kernels were chosen for it."""

from __future__ import annotations

import resource
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

import numpy as np
from threadpoolctl import LibController, ThreadpoolController

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


# Address space of a Python thread that multiplies: a stack, an arena of malloc, and a buffer of OpenBLAS, which
# ends the process when it gets none. 98 MB were measured; the buffer alone takes 34.
_THREAD_BYTES = 128 << 20
_BUFFER_BYTES = 48 << 20
_BUFFERED = threading.Event()


def _spare_bytes() -> int | None:
    """Address space that is left; None where there is no limit, or it is not known what is taken."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY or not _STATUS.exists():
        return None
    pages = int(_STATUS.with_name("statm").read_text(encoding="ascii").split()[0])
    return limit - pages * resource.getpagesize()


def _affordable_threads() -> int:
    spare = _spare_bytes()
    return MOST_THREADS if spare is None else max(1, spare // _THREAD_BYTES)


def _have_buffer() -> None:
    """Under a limit of memory, have BLAS take its buffer while there is room, or raise MemoryError."""
    if _BUFFERED.is_set():
        return
    spare = _spare_bytes()
    if spare is not None:
        if spare < _BUFFER_BYTES:
            raise MemoryError("no address space for the buffer of BLAS")
        square = np.ones((512, 512), np.float32)
        np.matmul(square, square)
    _BUFFERED.set()


class _OneThread:
    """One thread of BLAS for each product, held as long as any thread of the process needs it.

    Most libraries have one limit for the process: the first block imposes it and the last one lifts it. With OpenMP
    each thread of the process has a limit of its own, and every thread imposes it on itself.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._blocks = 0
        self._before: list[tuple[LibController, int]] = []

    @contextmanager
    def held(self) -> Iterator[None]:
        """Impose the limit until the block is left."""
        _have_buffer()
        own = self.impose_here()
        with self._lock:
            self._blocks += 1
            if self._blocks == 1:
                self._before = _limit(library for library in _blas() if not _limited_by_thread(library))
        try:
            yield
        finally:
            with self._lock:
                self._blocks -= 1
                if self._blocks == 0:
                    _restore(self._before)
            _restore(own)

    def impose_here(self) -> list[tuple[LibController, int]]:
        """Impose it on the calling thread, where threads have limits of their own; give what they were."""
        return _limit(library for library in _blas() if _limited_by_thread(library))


def _limited_by_thread(library: LibController) -> bool:
    return getattr(library, "threading_layer", None) == "openmp"


def _limit(libraries: Iterable[LibController]) -> list[tuple[LibController, int]]:
    before = [(library, library.num_threads) for library in libraries]
    _restore([(library, 1) for library, _ in before])
    return before


def _restore(limits: Iterable[tuple[LibController, int]]) -> None:
    for library, count in limits:
        # Newer threadpoolctl lets only one thread at a time set limits, and ignores all others without a word.
        release = getattr(library, "clear_controlling_thread", lambda **_: None)
        release(force=True)
        library.set_num_threads(count)
        release(force=True)


_BLAS = _OneThread()


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Give each product of NumPy one thread, until the block is left.

    With more, the order of a sum would depend on their number. What is wide is cut into pieces by its shape alone, and
    these are made side by side: see `halfpint.kernels.blas`. Several Python threads may be in such blocks at a time:
    a limit of the process holds until the last of them has left.
    """
    with _BLAS.held():
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
    count = min(thread_count(), _affordable_threads())
    with one_blas_thread():
        if count == 1 or len(pieces) == 1:
            return [piece() for piece in pieces]
        with ThreadPoolExecutor(count, initializer=_work_alone) as executor:
            return [future.result() for future in [executor.submit(piece) for piece in pieces]]


def _work_alone() -> None:
    """Give the calling thread, of a pool, one thread for its native work and for its products."""
    _native.use_one_thread_here()
    _BLAS.impose_here()


@lru_cache(maxsize=1)
def _blas() -> tuple[LibController, ...]:
    """The BLAS libraries of this process: they are all loaded with this package."""
    return tuple(library for library in ThreadpoolController().lib_controllers if library.user_api == "blas")


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
