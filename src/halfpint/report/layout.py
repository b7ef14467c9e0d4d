"""The few shapes that every card is made of: headings, lists of facts, tables, bars. Readable without colour."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from halfpint.report.terminal_text import printable

WIDEST = 100
"""No card is wider than this many columns, however wide the terminal."""

NARROWEST = 80
"""Columns that every card and table fits; fewer would cut figures."""

_FIRST: Mapping[int, int | None] = MappingProxyType({0: None})
_EIGHTHS = " ▏▎▍▌▋▊▉█"


def text(words: str, style: str = "") -> Text:
    """Words as they are: no markup is read from them, no control character is passed on."""
    return Text(printable(words), style=style)


def heading(title: str, remark: str = "") -> Text:
    """The first line of a card."""
    line = text(title, "bold")
    return line.append_text(text(f"  {remark}", "dim")) if remark else line


def margin(part: RenderableType) -> Padding:
    """Set a part in by two columns; lines end where they end, so that a pipe gets no blanks."""
    return Padding(part, (0, 0, 0, 2), expand=False)


def facts(rows: Iterable[Sequence[str | Text]]) -> Padding:
    """Lines of a label, a value and an optional remark, in columns."""
    lines = [[text(cell) if isinstance(cell, str) else cell for cell in row] for row in rows]
    columns = max((len(line) for line in lines), default=0)
    grid = Table.grid(padding=(0, 2))
    for position in range(columns):
        style = ("cyan", "", "dim")[position]
        grid.add_column(style=style, no_wrap=position == 0, overflow="fold")
    for line in lines:
        grid.add_row(*line)
    return margin(grid)


def table(
    columns: Sequence[str], rows: Sequence[Sequence[str | Text]], folded: Mapping[int, int | None] = _FIRST
) -> Padding:
    """A table with one rule under its head.

    Parameters
    ----------
    columns : sequence of str
        Heads; one that begins with `<` is set left, others to the right.
    rows : sequence of rows
    folded : mapping of int to int
        Columns that are folded when there is no room, and those with a number always to so many columns; the others
        stay whole.
    """
    made = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, show_edge=False, header_style="cyan")
    for position, head in enumerate(columns):
        left = head.startswith("<")
        made.add_column(
            text(head.removeprefix("<")),
            justify="left" if left else "right",
            no_wrap=position not in folded,
            overflow="fold",
            max_width=folded.get(position),
        )
    for row in rows:
        made.add_row(*(text(cell) if isinstance(cell, str) else cell for cell in row))
    return margin(made)


def bar(fraction: float, width: int) -> str:
    """A horizontal bar in eighths of a column; anything above zero shows."""
    eighths = round(max(0.0, min(1.0, fraction)) * width * 8)
    if fraction > 0:
        eighths = max(1, eighths)
    whole, rest = divmod(eighths, 8)
    return "█" * whole + (_EIGHTHS[rest] if rest else "")


def card(*parts: RenderableType) -> Group:
    """Parts under one another, an empty line between them and at both ends."""
    spaced: list[RenderableType] = [Text("")]
    for part in parts:
        spaced += [part, Text("")]
    return Group(*spaced)


def remark(words: str) -> Padding:
    """A paragraph in the margin of a card."""
    return margin(text(words, "dim"))
