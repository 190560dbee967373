"""Curves in characters: eight dots a character where there is colour to tell lines apart, one sign a column elsewhere."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.text import Text

from igpo_cli.health import short
from igpo_cli.report.chart import Line, ticks

COLOURS = ("blue", "red", "green", "magenta", "yellow", "cyan")
SIGNS = "ox+*#%"
DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""Of a braille character: four rows of two columns."""


def draw(lines: Sequence[Line], console: Console, *, rows: int = 12, columns: int = 100) -> Iterator[Text]:
    """The lines of text that show some curves over one axis of steps, at most `columns` wide."""
    values = [value for line in lines for _, value in line.points]
    steps = [step for line in lines for step, _ in line.points]
    marks = ticks(min(values), max(values), most=4)
    low, high, first, last = marks[0], marks[-1], min(steps), max(max(steps), min(steps) + 1)
    labels = {round((high - mark) / (high - low) * (rows - 1)): short(mark) for mark in marks}
    margin = max(map(len, labels.values()))
    width = max(10, min(console.width, columns) - margin - 2)
    coloured = not console.no_color and console.is_terminal and not console.options.ascii_only
    paint = _dots if coloured or (len(lines) == 1 and not console.options.ascii_only) else _signs

    def at(step: float, value: float) -> tuple[float, float]:
        return (step - first) / (last - first), (high - value) / (high - low)

    cells = paint([[at(step, value) for step, value in line.points] for line in lines], width, rows)
    bar = "|" if console.options.ascii_only else "│"
    for row in range(rows):
        text = Text(f"{labels.get(row, ''):>{margin}} ").append(bar, "dim")
        for column in range(width):
            sign, owner = cells.get((row, column), (" ", 0))
            text.append(sign, COLOURS[lines[owner].arm % len(COLOURS)])
        text.rstrip()
        yield text
    axis = f"{first}{f'step {last}':>{width - len(str(first))}}"
    yield Text(f"{'':{margin + 2}}{axis}", "dim")


def legend(lines: Sequence[Line], console: Console) -> Text:
    """Which line is whose."""
    coloured = not console.no_color and console.is_terminal
    text = Text()
    for number, line in enumerate(lines):
        sign = ("--" if console.options.ascii_only else "━━") if coloured else SIGNS[number % len(SIGNS)]
        text.append(f"{sign} ", COLOURS[line.arm % len(COLOURS)]).append(f"{line.label}   ")
    text.rstrip()
    return text


Cells = dict[tuple[int, int], tuple[str, int]]
"""(row, column) -> character and the number of its line; of two lines in one place the later one shows."""


def _dots(lines: Sequence[Sequence[tuple[float, float]]], width: int, rows: int) -> Cells:
    bits: dict[tuple[int, int], list[int]] = {}
    for number, points in enumerate(lines):
        spots = [(x * (2 * width - 1), y * (4 * rows - 1)) for x, y in points]
        for (x, y), (to_x, to_y) in zip(spots, spots[1:] or spots, strict=False):
            length = max(1, math.ceil(max(abs(to_x - x), abs(to_y - y))))
            for part in range(length + 1):
                column = round(x + (to_x - x) * part / length)
                row = round(y + (to_y - y) * part / length)
                cell = bits.setdefault((row // 4, column // 2), [0, number])
                cell[0], cell[1] = cell[0] | DOTS[row % 4][column % 2], number
    return {place: (chr(0x2800 + dots), number) for place, (dots, number) in bits.items()}


def _signs(lines: Sequence[Sequence[tuple[float, float]]], width: int, rows: int) -> Cells:
    cells: Cells = {}
    for number, points in enumerate(lines):
        spots: dict[int, list[float]] = {}
        for x, y in points:
            spots.setdefault(round(x * (width - 1)), []).append(y)
        for column, ys in spots.items():
            cells[round(math.fsum(ys) / len(ys) * (rows - 1)), column] = SIGNS[number % len(SIGNS)], number
    return cells
