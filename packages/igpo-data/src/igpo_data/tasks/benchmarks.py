"""The held-out sets that mathematical reasoning is measured on: MATH500, Minerva, AMC. One split, "test", each.

Copies differ in their columns (problem or question, an answer or only a solution that states it); all of them are read.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from attrs import frozen

from igpo_data.task import Task
from igpo_data.tasks.files import Row
from igpo_data.tasks.huggingface import load_rows
from igpo_data.tasks.records import Columns

QUESTION = ("problem", "question")


@frozen(kw_only=True)
class Math500:
    """500 held-out competition problems of MATH (Lightman et al., arXiv 2305.20050); with levels from the hub."""

    path: str | None = None
    """A folder with test.jsonl (also .gz, .csv, .parquet) or one such file. Default: the hub's HuggingFaceH4/MATH-500."""

    splits = ("test",)
    hub = "HuggingFaceH4/MATH-500"

    def __call__(self, split: str) -> list[Task]:
        """The problems of "test" in order; a worked solution where the copy has one (column solution)."""
        columns = Columns(
            prompt=QUESTION,
            answer="answer",
            trace="solution",
            key="unique_id",
            extra=("level", "subject"),
            lenient=True,
        )
        return _only_test(self, columns, split)


@frozen(kw_only=True)
class Minerva:
    """272 held-out problems of undergraduate science, with worked solutions (Lewkowycz et al., arXiv 2206.14858)."""

    path: str | None = None
    """A folder with test.jsonl (also .gz, .csv, .parquet) or one such file. Default: the hub's math-ai/minervamath."""

    splits = ("test",)
    hub = "math-ai/minervamath"

    def __call__(self, split: str) -> list[Task]:
        """The problems of "test" in order; the answer is the column answer, or else what the solution boxes last."""
        columns = Columns(
            prompt=QUESTION, answer=("answer", "solution"), trace="solution", extra=("type",), lenient=True
        )
        return _only_test(self, columns, split)


@frozen(kw_only=True)
class AMC:
    """40 held-out problems of the American Mathematics Competitions of 2023; all answers are whole numbers."""

    path: str | None = None
    """A folder with test.jsonl (also .gz, .csv, .parquet) or one such file. Default: the hub's math-ai/amc23."""

    splits = ("test",)
    hub = "math-ai/amc23"

    def __call__(self, split: str) -> list[Task]:
        """The problems of "test" in order; an answer kept as 27.0 reads 27."""
        return _only_test(self, Columns(prompt=QUESTION, answer="answer"), split)


def _only_test(source: Math500 | Minerva | AMC, columns: Columns, split: str) -> list[Task]:
    name = type(source).__name__.lower()
    if split != "test":
        raise ValueError(f"{name} has no split {split!r}; it has only test")
    return list(columns.tasks(_whole(load_rows(source.path or source.hub, None, split)), f"{name}/{split}"))


def _whole(rows: Iterable[Row]) -> Iterable[Row]:
    for place, row in rows:
        answer: Any = row.get("answer")
        yield place, {**row, "answer": int(answer)} if isinstance(answer, float) and answer.is_integer() else row
