"""Sums, worked out step by step.

A task source gives problems. Those with a worked solution can give hints; `answer_spans` says which characters of it
state the answer, and these are never shown. Problems and their keys are the same at every call.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, ClassVar

from attrs import field, frozen, validators

from igpo_data.hookspecs import hookimpl

if TYPE_CHECKING:
    from igpo_data import Task


@frozen(kw_only=True)
class Mine:
    """Sums of several numbers, with every partial sum in the worked solution."""

    terms: int = field(default=3, validator=validators.ge(2))
    """Numbers in a sum."""
    largest: int = field(default=9, validator=validators.ge(1))
    """Largest of them."""
    problems: int = field(default=200, validator=validators.ge(1))
    """Problems of a split."""

    splits: ClassVar[tuple[str, ...]] = ("train", "test")

    def __call__(self, split: str) -> list[Task]:
        """The problems of a split; a sum may occur in both, since its parts are drawn independently."""
        if split not in self.splits:
            raise ValueError(f"there is no split {split!r}; there are {', '.join(self.splits)}")
        rng = Random(f"sums/{split}")
        return [self._problem(f"{split}/{number}", rng) for number in range(self.problems)]

    def _problem(self, key: str, rng: Random) -> Task:
        from igpo_data import Task

        numbers = [rng.randint(1, self.largest) for _ in range(self.terms)]
        steps, total = [], numbers[0]
        for number in numbers[1:]:
            steps.append(f"{total} + {number} = {total + number}")
            total += number
        trace = f"{', '.join(steps)} #### {total}"
        hidden = trace.rindex("=") + 2  # the last step's result is the answer too
        return Task(
            key=key,
            prompt=" + ".join(map(str, numbers)) + " = ?",
            answer=str(total),
            trace=trace,
            answer_spans=((hidden, len(trace)),),
        )


@hookimpl
def igpo_tasks() -> dict[str, str]:
    return {"mine": "igpo_cli.templates.task:Mine"}
