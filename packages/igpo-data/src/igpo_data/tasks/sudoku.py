"""Sudoku of four rows, generated with exactly one solution, or read from a file; with worked solutions.

Puzzles are written as in d1's evaluation (arXiv 2504.12216): 16 digits, 0 for an empty cell.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import islice
from typing import Any

from attrs import field, frozen, validators

from igpo_data.task import Task
from igpo_data.tasks.huggingface import load_rows

CELLS = 16
UNITS = (
    *(tuple(range(4 * row, 4 * row + 4)) for row in range(4)),
    *(tuple(range(column, CELLS, 4)) for column in range(4)),
    *(tuple(4 * (row + i) + column + j for i in range(2) for j in range(2)) for row in (0, 2) for column in (0, 2)),
)
PEERS = tuple(frozenset(cell for unit in UNITS if own in unit for cell in unit) - {own} for own in range(CELLS))
SIZES = [validators.ge(1), validators.le(100_000)]


@frozen(kw_only=True)
class SudokuProblems:
    """Sudoku of four rows with worked solutions, each cell filled when it is certain."""

    path: str | None = None
    """Rows with Puzzle and Solution, 16 digits each: a local file or folder; none: generated. Theirs may have several."""
    empty: int = field(default=10, validator=[validators.ge(1), validators.le(12)])
    """Empty cells of a generated puzzle."""
    seed: int = 0
    """Another seed generates other puzzles."""
    train_problems: int = field(default=10_000, validator=SIZES)
    """Generated puzzles in the split "train"."""
    test_problems: int = field(default=256, validator=SIZES)
    """Held-out generated puzzles in the split "test"; none of them is in "train"."""

    splits = ("train", "test")

    def __call__(self, split: str) -> list[Task]:
        """The puzzles, all different. meta: puzzle; the answer is the solution, a row after the other."""
        if self.path is not None:
            rows = enumerate(load_rows(self.path, None, split))
            return [_from_row(place, row, f"sudoku/{split}/{index}") for index, (place, row) in rows]
        if split not in self.splits:
            raise ValueError(f"sudoku has no split {split!r}; it has {', '.join(self.splits)}")
        held_out = list(islice(self._generate("test", set()), self.test_problems))
        if split == "test":
            return held_out
        return list(islice(self._generate("train", {task.prompt for task in held_out}), self.train_problems))

    def _generate(self, split: str, seen: set[str]) -> Iterator[Task]:
        rng, count, misses = random.Random(f"sudoku/{self.seed}/{split}"), 0, 0
        while misses < 10_000:
            puzzle = _grid(rng)
            for cell in rng.sample(range(CELLS), self.empty):
                puzzle[cell] = 0
            misses += 1
            steps = fill(puzzle)
            if steps is None:
                continue
            task = _task(puzzle, steps, f"sudoku/{split}/{count}")
            if task.prompt not in seen:
                seen.add(task.prompt)
                count, misses = count + 1, 0
                yield task


def fill(puzzle: list[int], solution: list[int] | None = None) -> list[tuple[int, int]] | None:
    """(cell, digit) in an order in which each cell is certain when its turn comes; None where that does not solve it.

    Every puzzle that these steps solve has exactly one solution. Where none is certain, one is taken of `solution`.
    """
    grid, steps = list(puzzle), []
    while 0 in grid:
        step = next(_certain(grid), None)
        if step is None and solution is not None:
            step = grid.index(0), solution[grid.index(0)]
        if step is None:
            return None
        grid[step[0]] = step[1]
        steps.append(step)
    return steps if all(sorted(grid[cell] for cell in unit) == [1, 2, 3, 4] for unit in UNITS) else None


def _certain(grid: list[int]) -> Iterator[tuple[int, int]]:
    """Cells with one digit left, then digits with one cell left in a row, column or box."""
    left = {cell: {1, 2, 3, 4} - {grid[peer] for peer in PEERS[cell]} for cell in range(CELLS) if not grid[cell]}
    for cell, digits in left.items():
        if len(digits) == 1:
            yield cell, min(digits)
    for unit in UNITS:
        for digit in (1, 2, 3, 4):
            cells = [cell for cell in unit if digit in left.get(cell, ())]
            if len(cells) == 1:
                yield cells[0], digit


def _grid(rng: random.Random) -> list[int]:
    """A random one of the 288 full grids, cell by cell with a step back where nothing fits."""
    grid, left = [0] * CELLS, [rng.sample((1, 2, 3, 4), 4)]
    while len(left) <= CELLS:
        cell, choices = len(left) - 1, left[-1]
        grid[cell] = next((digit for digit in choices if all(grid[peer] != digit for peer in PEERS[cell])), 0)
        if grid[cell]:
            del choices[: choices.index(grid[cell]) + 1]
            left.append(rng.sample((1, 2, 3, 4), 4))
        else:
            left.pop()
            grid[cell - 1] = 0
    return grid


def _task(puzzle: list[int], steps: list[tuple[int, int]], key: str) -> Task:
    """A line a step and the whole grid behind ####; of these the last step and the grid are hidden."""
    grid = list(puzzle)
    for cell, digit in steps:
        grid[cell] = digit
    lines = [f"row {cell // 4 + 1} column {cell % 4 + 1} is {digit}" for cell, digit in steps]
    text, answer = "".join(map(str, puzzle)), "".join(map(str, grid))
    trace = "\n".join([*lines, f"#### {answer}"])
    hidden = len(trace) - len(f"{lines[-1]}\n#### {answer}")
    return Task(
        key=key,
        prompt=f"Solve the following Sudoku puzzle: {text}",
        answer=answer,
        trace=trace,
        answer_spans=((hidden, hidden + len(lines[-1])), (len(trace) - CELLS, len(trace))),
        meta={"puzzle": text},
    )


def _from_row(place: str, row: Any, key: str) -> Task:
    texts = [str(row.get(name, row.get(name.lower()))).zfill(CELLS) for name in ("Puzzle", "Solution")]
    digits = set("01234"), set("1234")
    if not all(len(text) == CELLS and set(text) <= known for text, known in zip(texts, digits, strict=True)):
        raise ValueError(
            f"{place}: needs Puzzle and Solution, 16 digits each, of the puzzle 0 to 4, of the solution 1 to 4; it has {dict(row)}"
        )
    puzzle, solution = ([int(digit) for digit in text] for text in texts)
    steps = fill(puzzle, solution)
    task = _task(puzzle, steps, key) if steps else None
    if task is None or task.answer != texts[1]:
        raise ValueError(f"{place}: {texts[1]} is not the solution of {texts[0]}")
    return task
