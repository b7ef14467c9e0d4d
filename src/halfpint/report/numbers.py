"""How figures are written: three significant digits, decimal units, and one standard error after the sign."""

from __future__ import annotations

import math
from collections.abc import Iterable

_BYTE_UNITS = ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB"))
# From here on a number is written with an exponent.
_LARGEST_EXPONENT = 9
_COUNT_UNITS = ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "k"))


def significant(value: float, digits: int = 3) -> str:
    """Write a number with so many significant digits, without an exponent where a reader can do without.

    `123456` stays whole: digits before the point are never replaced by zeros. From a billion on there is an exponent.
    """
    if not math.isfinite(value):
        return "unknown" if math.isnan(value) else "infinite"
    if value == 0:
        return "0"
    exponent = math.floor(math.log10(abs(value)))
    if not -5 <= exponent < _LARGEST_EXPONENT:
        return f"{value:.{digits - 1}e}"
    text = f"{value:.{max(0, digits - 1 - exponent)}f}"
    # Rounding may carry into a new digit: 9.996 is 10.0, not 10.00.
    carried = math.floor(math.log10(abs(float(text))))
    return text if carried == exponent else f"{value:.{max(0, digits - 1 - carried)}f}"


def size(nbytes: float) -> str:
    """Bytes in decimal units: `3.58 GB`."""
    return _scaled(nbytes, _BYTE_UNITS, " ", " bytes")


def count(number: float) -> str:
    """A number of parameters or tokens, short: `6.82M`, `7.24B`."""
    return _scaled(number, _COUNT_UNITS, "", "")


def _scaled(value: float, units: Iterable[tuple[int, str]], gap: str, plain: str) -> str:
    for unit, word in units:
        # 999.7 of a unit would be written as 1000: the next unit says it better.
        if value >= 0.9995 * unit:
            return f"{significant(value / unit)}{gap}{word}"
    return f"{value:.0f}{plain}"


def rate(bytes_per_second: float) -> str:
    """A speed in bytes: `1.2 GB/s`."""
    return f"{size(bytes_per_second)}/s"


def duration(seconds: float) -> str:
    """A time: `0.42 s`, `3 min 05 s`, `2 h 07 min`."""
    if not math.isfinite(seconds):
        return "unknown"
    if seconds < 60:
        return f"{significant(seconds, 2 if seconds < 10 else 3)} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def with_error(mean: float, stderr: float) -> str:
    """A mean and one standard error, both to the second digit of the error: `0.0123 ± 0.0004` ends where doubt begins.

    An error of 0 is exact; one that is not a number says `± unknown`.
    """
    if math.isnan(stderr):
        return f"{significant(mean)} ± unknown"
    if stderr == 0 or not math.isfinite(mean) or not math.isfinite(stderr):
        return f"{significant(mean)} ± {significant(stderr, 2)}"
    if max(abs(mean), stderr) >= 10**_LARGEST_EXPONENT:
        return f"{mean:.2e} ± {stderr:.1e}"
    decimals = max(0, 1 - math.floor(math.log10(stderr)))
    # Tiny errors of large means need no more than six digits of the mean.
    largest = max(abs(mean), stderr)
    decimals = min(decimals, max(0, 5 - math.floor(math.log10(largest))))
    if decimals > 9:
        return f"{mean:.2e} ± {stderr:.1e}"
    return f"{mean:.{decimals}f} ± {stderr:.{decimals}f}"


def percent(fraction: float, stderr: float | None = None) -> str:
    """A fraction as a percentage: `95.6 %`, `95.63 ± 0.31 %`."""
    if stderr is None or math.isnan(stderr):
        return f"{significant(100 * fraction)} %{'' if stderr is None else ' ± unknown'}"
    return f"{with_error(100 * fraction, 100 * stderr)} %"


def change(before: float, after: float) -> str:
    """How a size has changed: `3.56x smaller`, `1.20x larger`, `the same size`; `-` where nothing can be divided by."""
    if min(before, after) <= 0:
        return "-"
    if max(before, after) < 1.005 * min(before, after):
        return "the same size"
    return f"{ratio(after, before)} larger" if after > before else f"{ratio(before, after)} smaller"


def ratio(larger: float, smaller: float) -> str:
    """How many times smaller: `3.56x`; `-` when there is nothing to divide by."""
    return f"{significant(larger / smaller)}x" if smaller > 0 else "-"
