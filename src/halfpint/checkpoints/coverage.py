"""Which rows of which output tensors have been written: each must be, once."""

from __future__ import annotations

from collections.abc import Mapping

from halfpint.errors import UsageError, VerificationError


class RowCoverage:
    """A ledger of written rows.

    Parameters
    ----------
    rows : Mapping of str to int
        How many rows each declared tensor has; 1 for one without axes.
    """

    __slots__ = ("_rows", "_written")

    def __init__(self, rows: Mapping[str, int]) -> None:
        self._rows = dict(rows)
        self._written: dict[str, list[tuple[int, int]]] = {name: [] for name in rows}

    def add(self, name: str, start: int, count: int) -> None:
        """Note that rows [start, start + count) are being written.

        Raises
        ------
        UsageError
            If the tensor was not declared, the rows are not in it, or some of them came before.
        """
        if name not in self._rows:
            raise UsageError(f"tensor {name!r} was not declared when the output was begun")
        end = start + count
        if not 0 <= start <= end <= self._rows[name]:
            raise UsageError(f"tensor {name!r} has {self._rows[name]} rows; {start} to {end} came")
        if count == 0:
            return
        spans = self._written[name]
        for other_start, other_end in spans:
            if start < other_end and other_start < end:
                raise UsageError(f"tensor {name!r}: rows {max(start, other_start)} and on came twice")
        spans.append((start, end))
        self._written[name] = _joined(spans)

    def complete(self, name: str) -> bool:
        """Whether every row of a tensor has come."""
        return sum(end - start for start, end in self._written[name]) == self._rows[name]

    def check_complete(self) -> None:
        """Check that every row of every tensor has come.

        Raises
        ------
        VerificationError
            Naming the first tensor with missing rows.
        """
        missing = [name for name in self._rows if not self.complete(name)]
        if missing:
            raise VerificationError(
                f"{len(missing)} declared tensors were not written completely, {missing[0]!r} among them"
            )


def _joined(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Join spans that touch, so that the list stays short."""
    joined: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if joined and joined[-1][1] == start:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return joined
