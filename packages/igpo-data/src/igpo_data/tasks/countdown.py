"""Countdown: reach a target with all the given numbers, each used once, by + - * /. Generated, with worked solutions.

The wording of the prompts is that of d1's evaluation (arXiv 2504.12216), so that published figures can be compared.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from fractions import Fraction
from itertools import combinations, islice
from typing import Any, TypeAlias

from attrs import field, frozen, validators

from igpo_data.task import Task
from igpo_data.tasks.huggingface import load_rows

SIZES = [validators.ge(1), validators.le(1_000_000)]
MOST_NUMBERS = 5
Step: TypeAlias = tuple[Fraction, str, Fraction, Fraction]


@frozen(kw_only=True)
class CountdownProblems:
    """Countdown: reach a target with given numbers, each used once. Many answers are right: it takes a verifier of its own."""

    path: str | None = None
    """Rows with nums and target, local or on the hub; none: generated. Such as Jiayi-Pan/Countdown-Tasks-3to4."""
    numbers: int = field(default=3, validator=[validators.ge(2), validators.le(MOST_NUMBERS)])
    """How many numbers a generated problem has."""
    largest: int = field(default=99, validator=[validators.ge(9), validators.le(999)])
    """Largest number and target that are generated."""
    seed: int = 0
    """Another seed generates other problems."""
    train_problems: int = field(default=10_000, validator=SIZES)
    """Generated problems in the split "train"."""
    test_problems: int = field(default=256, validator=SIZES)
    """Held-out generated problems in the split "test"; none of them is in "train"."""

    splits = ("train", "test")

    def __call__(self, split: str) -> list[Task]:
        """The problems, all different. meta: numbers and target; the answer is one expression of several right ones."""
        if self.path is not None:
            return [_from_row(place, row, f"countdown/{split}") for place, row in load_rows(self.path, None, split)]
        if split not in self.splits:
            raise ValueError(f"countdown has no split {split!r}; it has {', '.join(self.splits)}")
        held_out = {task.prompt: task for task in islice(self._generate("test", {}), self.test_problems)}
        if split == "test":
            return list(held_out.values())
        return list(islice(self._generate("train", held_out), self.train_problems))

    def _generate(self, split: str, excluded: dict[str, Task]) -> Iterator[Task]:
        rng = random.Random(f"countdown/{self.seed}/{split}")
        seen, misses = set(excluded), 0
        while misses < 10_000:  # fewer problems than asked for, where there are no more
            numbers = [rng.randint(1, self.largest) for _ in range(self.numbers)]
            steps = _walk(numbers, self.largest, rng)
            misses += 1
            if steps is None:
                continue
            task = _task(numbers, steps, f"countdown/{split}/{len(seen) - len(excluded)}")
            if task.prompt not in seen:
                seen.add(task.prompt)
                misses = 0
                yield task


def solve(numbers: list[int], target: int) -> list[Step] | None:
    """Steps (left, operation, right, result) that use all numbers and end at the target, or None where there are none."""

    def search(values: list[Fraction]) -> list[Step] | None:
        if len(values) == 1:
            return [] if values[0] == target else None
        for i, j in combinations(range(len(values)), 2):
            rest = [value for at, value in enumerate(values) if at not in (i, j)]
            for step in _steps(values[i], values[j]):
                found = search([*rest, step[3]])
                if found is not None:
                    return [step, *found]
        return None

    return search([Fraction(number) for number in numbers])


def _steps(one: Fraction, other: Fraction) -> Iterator[Step]:
    high, low = max(one, other), min(one, other)
    yield high, "+", low, high + low
    yield high, "-", low, high - low
    yield high, "*", low, high * low
    for above, below in ((high, low), (low, high)):
        if below:
            yield above, "/", below, above / below


def _walk(numbers: list[int], largest: int, rng: random.Random) -> list[Step] | None:
    """Random steps through whole positive numbers; None where they leave 1 to `largest` at the end."""
    values, steps = [Fraction(number) for number in numbers], []
    while len(values) > 1:
        one, other = (values.pop(rng.randrange(len(values))) for _ in range(2))
        allowed = [step for step in _steps(one, other) if step[3] > 0 and step[3].denominator == 1]
        steps.append(rng.choice(allowed))
        values.append(steps[-1][3])
    return steps if 1 <= values[0] <= largest else None


def _task(numbers: list[int], steps: list[Step], key: str) -> Task:
    """The steps as lines and their expression behind ####; of these the last step and the expression are hidden."""
    lines = [f"{left} {operation} {right} = {result}" for left, operation, right, result in steps]
    answer, target = _expression(steps), int(steps[-1][3])
    trace = "\n".join([*lines, f"#### {answer}"])
    hidden = len(trace) - len(f"{lines[-1]}\n#### {answer}")
    return Task(
        key=key,
        prompt=f"Numbers: {numbers}\nTarget: {target}",
        answer=answer,
        trace=trace,
        answer_spans=((hidden, len(lines[-1]) + hidden), (len(trace) - len(answer), len(trace))),
        meta={"numbers": list(numbers), "target": target},
    )


def _expression(steps: list[Step]) -> str:
    """One expression for all steps, with parentheses around what was computed before."""
    made: list[tuple[Fraction, str]] = []

    def operand(value: Fraction) -> str:
        at = next((at for at, (result, _) in enumerate(made) if result == value), None)
        return str(value) if at is None else f"({made.pop(at)[1]})"

    for left, operation, right, result in steps:
        made.append((result, f"{operand(left)} {operation} {operand(right)}"))
    return made[-1][1]


def _from_row(place: str, row: Any, source: str) -> Task:
    numbers, target = row.get("nums", row.get("numbers")), row.get("target")
    if isinstance(numbers, str):
        numbers = [int(part) for part in numbers.strip("[] ").replace(",", " ").split() if part.isdigit()]
        target = int(target) if str(target).isdigit() else target
    whole = isinstance(numbers, list) and all(isinstance(number, int) for number in numbers)
    if not whole or not isinstance(target, int) or not 2 <= len(numbers) <= MOST_NUMBERS:
        raise ValueError(f"{place}: needs nums, 2 to {MOST_NUMBERS} whole numbers, and target; it has {dict(row)}")
    steps = solve(numbers, target)
    if steps is None:
        raise ValueError(f"{place}: {target} cannot be reached with all of {numbers}; leave the row out")
    return _task(numbers, steps, f"{source}/{place.rpartition(':')[2].rpartition(' ')[2]}")
