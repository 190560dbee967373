"""Part of a task source: the first or a random part of it, and only the problems of some difficulty."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from attrs import field, frozen, validators

from igpo_data.task import Task, TaskSource
from igpo_data.tasks.files import read_jsonl

TRACE, PASSES = "trace", "passes"


def pick(tasks: Iterable[Task], limit: int | None = None, shuffle: int | None = None) -> list[Task]:
    """The first `limit` tasks (None: all), or with `shuffle`, a seed, as many random ones in random order.

    A stream is read no further than needed; with both, it is read to its end while `limit` tasks are kept (Vitter's R).
    """
    if shuffle is None:
        return list(islice(tasks, limit))
    rng = random.Random(f"shuffle/{shuffle}")
    kept: list[Task] = []
    for seen, task in enumerate(tasks):
        if limit is None or seen < limit:
            kept.append(task)
        elif (place := rng.randrange(seen + 1)) < limit:
            kept[place] = task
    rng.shuffle(kept)
    return kept


@frozen(kw_only=True)
class Select:
    """Part of another task source: so many of its problems, or only the hard or easy ones."""

    source: TaskSource
    """The source, a table of its own with a name."""
    split: str | None = None
    """This split of it, whatever is asked for; none: the one that is asked for."""
    limit: int | None = field(default=None, validator=validators.optional(validators.ge(1)))
    """So many problems at most; none for all."""
    shuffle: int | None = None
    """Seed of a shuffle before the limit; none: in order."""
    by: str | None = None
    """What low and high bound: a key of meta (level), trace (characters) or passes; none: nothing."""
    low: float | None = None
    """Least value that is kept."""
    high: float | None = None
    """Largest value that is kept."""
    passes: str | None = None
    """File of judged samples, as igpo eval --out writes. Each problem's share correct, from 0 hard to 1 easy."""

    def __attrs_post_init__(self) -> None:
        bounded = self.low is not None or self.high is not None
        if bounded != (self.by is not None):
            raise ValueError(f"by = {self.by!r} with low = {self.low} and high = {self.high}: set both or neither")
        if (self.by == PASSES) != (self.passes is not None):
            raise ValueError(
                f"by = {self.by!r}, passes = {self.passes!r}: by = 'passes' needs its file, nothing else does"
            )
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(f"low = {self.low} is above high = {self.high}; nothing lies between them")

    def __call__(self, split: str) -> list[Task]:
        """The problems that are left, in order or shuffled; ValueError where a problem has no such value, or none is left."""
        split = self.split or split
        tasks = pick(self._within(self.source(split)), self.limit, self.shuffle)
        if not tasks and self.by is not None:
            raise ValueError(f"by = {self.by!r}: no problem of {split!r} lies within {self.low} and {self.high}")
        return tasks

    def _within(self, tasks: Iterable[Task]) -> Iterator[Task]:
        shares = pass_shares(Path(self.passes)) if self.passes else {}
        for task in tasks:
            if self.by is None:
                yield task
                continue
            value = self._value(task, shares)
            if (self.low is None or value >= self.low) and (self.high is None or value <= self.high):
                yield task

    def _value(self, task: Task, shares: dict[str, float]) -> float:
        if self.by == TRACE:
            return len(task.trace or "")
        value = shares.get(task.key) if self.by == PASSES else task.meta.get(self.by or "")
        if isinstance(value, str):
            digits = "".join(letter for letter in value if letter.isdigit() or letter == ".")  # "Level 5"
            value = float(digits) if digits.count(".") < 2 and digits.strip(".") else None
        if not isinstance(value, int | float):
            where = f"{self.passes} has no sample of it" if self.by == PASSES else f"its meta has {sorted(task.meta)}"
            raise ValueError(f"by = {self.by!r}: problem {task.key!r} has no such number; {where}")
        return float(value)


def pass_shares(file: Path) -> dict[str, float]:
    """Problem key -> share of its samples that are correct; rows hold key and correct."""
    counts: dict[str, list[bool]] = {}
    for place, row in read_jsonl(file):
        if not isinstance(row.get("key"), str) or not isinstance(row.get("correct"), bool):
            raise ValueError(f"{place}: needs key (text) and correct (true or false), not {json.dumps(row)[:80]}")
        counts.setdefault(row["key"], []).append(row["correct"])
    return {key: sum(correct) / len(correct) for key, correct in counts.items()}
