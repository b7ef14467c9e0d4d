"""What memory and arithmetic of this machine give at the moment: the two limits that no engine can pass.

Both are measured with the threads and the instruction set that the kernels use. On machines that are shared with
others they change within minutes, so a speed means something only beside a probe made just before or after it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from halfpint.errors import UsageError
from halfpint.kernels import _native

LEAST_BYTES = 256 * 2**20
"""Memory that is read at least: more than caches hold, and what `halfpint doctor` reads."""

MOST_BYTES = 2**30
"""Memory that is read at most: beyond it the rate does not change any more."""

READS = 4
"""Sweeps of `Probe.read_bandwidth`."""

_BURSTS = 30


@dataclass(frozen=True, slots=True)
class Limits:
    """What was measured.

    Attributes
    ----------
    read_bandwidth : float
        Bytes a second that all threads together read from memory.
    integer_peak : float
        Operations a second, multiplications and additions counted apart, of products of 8-bit integers on all
        threads together.
    """

    read_bandwidth: float
    integer_peak: float


class Probe:
    """Holds memory to read, and measures.

    Parameters
    ----------
    nbytes : int
        Memory to read, which is held as long as the probe: as much as what it is compared with reads, because caches
        keep a part of what is hardly larger than they are. Brought between `LEAST_BYTES` and `MOST_BYTES`.
    """

    __slots__ = ("_memory",)

    def __init__(self, nbytes: int = LEAST_BYTES) -> None:
        # Ones, whose sum shows that every word was read. NumPy asks for large pages, as the engine does.
        self._memory = np.ones(min(max(nbytes, LEAST_BYTES), MOST_BYTES) // 8, np.uint64)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self._memory.nbytes

    def read_bandwidth(self) -> float:
        """Bytes a second, the best of a few sweeps: others only ever slow a machine down."""
        return _native.read_bandwidth(self._memory, READS)

    def measure(self) -> Limits:
        """Measure both limits; takes a few tenths of a second."""
        return Limits(self.read_bandwidth(), integer_peak())


def integer_peak() -> float:
    """Operations a second of 8-bit integer products on all threads; the best of some bursts of two thousandths."""
    return _native.integer_peak(_BURSTS)


def integer_instruction() -> str:
    """Name of the instruction that `integer_peak` measures."""
    return _native.integer_instruction()


def read_bandwidth() -> float:
    """Bytes a second that all threads together read from memory, measured now (takes about a quarter second)."""
    return Probe().read_bandwidth()


def share(amount: float, seconds: float, limit: float) -> float:
    """Part of a limit that was reached: `amount` of bytes or operations in some time, of `limit` a second.

    Raises
    ------
    UsageError
        If time or limit are not positive.
    """
    if seconds <= 0 or limit <= 0:
        raise UsageError(f"{amount} in {seconds} s of {limit} a second is no share")
    return amount / seconds / limit
