"""Sudoku: the stated grid must complete the puzzle by the rules; 4x4, 9x9 or any square of a square."""

from __future__ import annotations

import math
import re
from typing import Any

from attrs import frozen

from igpo_data.extraction import extract_answer
from igpo_data.task import Task
from igpo_data.verdict import Verdict

LONGEST = 2_000
FRAME = re.compile(r"\\(?:hline|quad)|\\(?:begin|end)\{[a-z]{1,12}\}(?:\{[|cr]{1,40}\})?|[\s|+,;&$\[\]()*\\-]+")
# What may stand between the digits of a grid.


@frozen(kw_only=True)
class Sudoku:
    """Sudoku: the stated digits must complete the puzzle."""

    def __call__(self, completion: str, task: Task) -> Verdict:
        """The puzzle stands in `task.meta["puzzle"]`, blanks as 0; without it the digits must be the answer's.

        A grid may be written with spaces, lines, commas, brackets or frames.
        """
        meta: Any = task.meta
        if "puzzle" not in meta and "entry" in meta:
            meta = meta["entry"]["metadata"]
        puzzle, answer = _digits(meta.get("puzzle", "")), _digits(task.answer)
        stated = extract_answer(completion)
        if not (puzzle or answer) or stated is None:
            note = "no-answer" if puzzle or answer else "unverifiable"
            return Verdict(reward=0.0, correct=False, answer=stated, note=note)
        grid = _digits(stated) if len(stated) <= LONGEST else None
        correct = grid is not None and (solves(puzzle, grid) if puzzle else grid == answer)
        return Verdict(reward=float(correct), correct=correct, answer=stated)


def solves(puzzle: str, grid: str) -> bool:
    """Does the grid keep the puzzle's digits and hold 1..n once in each row, column and box?"""
    size = math.isqrt(len(puzzle))
    box = math.isqrt(size)
    if box**4 != len(puzzle) or len(grid) != len(puzzle) or not 2 <= box <= 3:
        return False
    if any(given not in ("0", found) for given, found in zip(puzzle, grid, strict=True)):
        return False
    cells = [(index // size, index % size) for index in range(len(grid))]
    units = ([row for row, _ in cells], [column for _, column in cells], [r // box * box + c // box for r, c in cells])
    return all(
        {digit for digit, place in zip(grid, unit, strict=True) if place == number} == set("123456789"[:size])
        for unit in units
        for number in range(size)
    )


def _digits(grid: Any) -> str | None:
    """The digits of a grid, blanks as 0; None where anything but a frame stands between them."""
    if not isinstance(grid, str):
        grid = "".join(str(cell) for row in grid for cell in (row if isinstance(row, list | tuple) else [row]))
    digits = FRAME.sub("", grid.strip().rstrip(".").replace("_", "0").replace(".", "0"))
    return digits if digits.isascii() and digits.isdigit() else None
