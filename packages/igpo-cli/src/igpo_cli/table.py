"""Tables that fit: on a narrow terminal columns that can be spared go, then a row becomes a paragraph; cells are never cut.

On a pipe, which has no width, every row is one line with all its columns.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from attrs import frozen
from rich.console import Console
from rich.table import Table
from rich.text import Text

from igpo_cli.pieces import visible

GAP = 2
PIPE = 10_000
"""Characters of a line on a pipe: enough for any row."""
FOLDED = 28
"""Characters that a column of prose needs beside others, unless it says otherwise."""


@frozen
class Column:
    """One column: its title, and how its cells stand."""

    title: str
    right: bool = False
    """Numbers are aligned at their ends."""
    prose: bool = False
    """May be folded into several lines."""
    least: int = FOLDED
    """Characters that prose needs beside others at least."""
    spare: bool = False
    """Left out where there is no room; of several the last one goes first."""
    style: str = ""


def show(columns: Sequence[Column], rows: Sequence[Sequence[str | Text]], console: Console | None = None) -> None:
    """Print the rows; columns that are empty in all of them are left out. The first column names the row.

    A row of which nothing but its first cell is filled is a heading for those below it, an empty row a pause.
    """
    console = console or pipe_or_terminal()
    texts = [[cell if isinstance(cell, Text) else Text(visible(cell)) for cell in row] for row in rows]
    used = [at for at, _ in enumerate(columns) if at == 0 or any(row[at].plain for row in texts)]
    while _needs(columns, texts, used) > console.width and (spare := [at for at in used if columns[at].spare]):
        used.remove(spare[-1])
    fits = _needs(columns, texts, used) <= console.width
    columns = [columns[at] for at in used]
    texts = [[row[at] for at in used] for row in texts]
    if not fits:
        _paragraphs(columns, texts, console)
        return
    table = Table(box=None, padding=(0, GAP, 0, 0), show_header=any(column.title for column in columns), pad_edge=False)
    for column in columns:
        table.add_column(
            Text(column.title, "dim"),
            justify="right" if column.right else "left",
            no_wrap=not column.prose,
            style=column.style,
        )
    for row in texts:
        table.add_row(*row)
    console.print(table)


def pairs(about: Mapping[str, str | Text], console: Console | None = None) -> None:
    """Names and what there is to say of them; those with nothing are left out."""
    console = console or pipe_or_terminal()
    table = Table(box=None, show_header=False, padding=(0, GAP, 0, 0), pad_edge=False)
    longest = max(map(len, about), default=0)
    table.add_column(style="dim", no_wrap=longest + GAP + FOLDED <= console.width, overflow="fold")
    table.add_column(overflow="fold", min_width=min(FOLDED, console.width // 2))
    for name, value in about.items():
        if value:
            table.add_row(visible(name), value if isinstance(value, Text) else Text(visible(value)))
    console.print(table)


def pipe_or_terminal() -> Console:
    """As wide as the terminal, or as COLUMNS says; a pipe has no width of its own, so there no line is broken."""
    from igpo_cli.screen import tolerant_console

    console = tolerant_console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = Console(width=PIPE)
    return console


def _needs(columns: Sequence[Column], rows: Sequence[Sequence[Text]], used: Sequence[int]) -> int:
    """The width below which a cell would be cut or prose would become a ribbon."""
    width = 0
    for at in used:
        column = columns[at]
        cells = max((row[at].cell_len for row in rows), default=0)
        width += max(len(column.title), min(cells, column.least) if column.prose else cells) + GAP
    return width - GAP


def _paragraphs(columns: Sequence[Column], rows: Sequence[Sequence[Text]], console: Console) -> None:
    names = max((len(column.title) for column in columns[1:]), default=0)
    rows = [row for row in rows if any(cell.plain for cell in row)]
    for number, row in enumerate(rows):
        if number:
            console.print()
        console.print(row[0] if row[0].style else Text.assemble((row[0].plain, columns[0].style or "bold")))
        table = Table(box=None, padding=(0, GAP, 0, 0), show_header=False, pad_edge=False)
        table.add_column(style="dim", no_wrap=True, min_width=names + GAP)
        table.add_column(overflow="fold")
        for column, cell in zip(columns[1:], row[1:], strict=True):
            if cell.plain:
                table.add_row(f"{'':{GAP}}{column.title}" if column.title else "", cell)
        console.print(table)
