"""Several task sources as one, in fixed shares."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence

from attrs import evolve, field, frozen, validators

from igpo_data.task import Task, TaskSource


@frozen(kw_only=True)
class Mixture:
    """Several task sources as one, in shares by weight."""

    sources: tuple[TaskSource, ...] = field(validator=validators.min_len(1))
    """The sources, a list of tables, each with a name; `select` gives one a limit or a split of its own."""
    weights: tuple[float, ...] = ()
    """What each source weighs, all above 0; none: all alike."""
    problems: int | None = field(default=None, validator=validators.optional(validators.ge(1)))
    """Problems in all; none: until a source has no more. So no problem comes twice, and the shares hold."""

    def __attrs_post_init__(self) -> None:
        if self.weights and len(self.weights) != len(self.sources):
            raise ValueError(f"weights = {list(self.weights)} are {len(self.weights)}, sources are {len(self.sources)}")
        if not all(0 < weight < float("inf") for weight in self.weights):
            raise ValueError(
                f"weights = {list(self.weights)} must all be above 0; leave out a source that shall not count"
            )

    def __call__(self, split: str) -> list[Task]:
        """Problems in turn, so that among the first n each source has its share of n, to one problem.

        Keys get the source's number in front (0/gsm8k/train/5), so that they stay apart.
        """
        weights = self.weights or (1.0,) * len(self.sources)
        found = list(itertools.islice(interleave([source(split) for source in self.sources], weights), self.problems))
        if self.problems is not None and len(found) < self.problems:
            raise ValueError(
                f"problems = {self.problems:,}, but a source ends after {len(found):,} in these shares; "
                "lower problems or its weight"
            )
        return found


def interleave(sources: Sequence[Iterable[Task]], weights: Sequence[float]) -> Iterator[Task]:
    """Tasks of the sources in turn, always of the one that is furthest behind its share, until it has no more."""
    total, iterators = sum(weights), [iter(source) for source in sources]
    taken = [0] * len(iterators)
    for count in itertools.count(1):
        number = max(range(len(iterators)), key=lambda at: (weights[at] / total * count - taken[at], -at))
        task = next(iterators[number], None)
        if task is None:
            return
        taken[number] += 1
        yield evolve(task, key=f"{number}/{task.key}")
