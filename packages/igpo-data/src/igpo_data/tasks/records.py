"""From rows of a data set to tasks: which column is what, and where in the trace the answer is stated.

Whatever is wrong with a row is said with its place and the column, because data sets are where runs go wrong silently.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from attrs import field, frozen, validators

from igpo_data.extraction import extract_answer, locate_answers
from igpo_data.task import Task
from igpo_data.tasks.files import Row

SPANS = "answer_spans"


def pattern_error(pattern: str | None) -> str | None:
    """What is wrong with an answer pattern: it must be a regular expression with one group."""
    try:
        groups = re.compile(pattern).groups if pattern is not None else 1
    except re.error as error:
        return f"answer_pattern = {pattern!r} is no regular expression: {error}"
    return (
        None if groups == 1 else f"answer_pattern = {pattern!r} has {groups} groups; put (...) around the answer only"
    )


@frozen(kw_only=True)
class Columns:
    """Which columns of a row hold what; of several names for a column the first that a row has is read.

    A column `answer_spans`, [[from, to], ...] in characters of the trace as `igpo data dedupe` writes it, is believed; without
    one the answer is located.
    """

    prompt: str | tuple[str, ...]
    answer: str | tuple[str, ...]
    trace: str | None = None
    """A row whose column is null or empty has no trace."""
    key: str | None = None
    answer_pattern: str | None = field(default=None, validator=validators.optional(validators.instance_of(str)))
    extra: tuple[str, ...] = ()
    """Columns that are kept in `meta`, where a row has them."""
    lenient: bool = False
    """Rows may lack the columns of trace and key."""

    def __attrs_post_init__(self) -> None:
        if error := pattern_error(self.answer_pattern):
            raise ValueError(error)

    def tasks(self, rows: Iterable[Row], source: str) -> Iterator[Task]:
        """One task a row. `source` starts the keys of rows without one; ValueError where a key occurs twice."""
        seen: dict[str, str] = {}
        for index, (place, row) in enumerate(rows):
            task = self.task(row, place, f"{source}/{index}")
            if self.key and seen.setdefault(task.key, place) != place:
                raise ValueError(
                    f"{place}: the key {task.key[:80]!r} of column {self.key!r} was that of {seen[task.key]} already; keys "
                    "are unique. Name another column, or none to use the place in the file."
                )
            yield task

    def task(self, row: Mapping[str, Any], place: str, key: str) -> Task:
        """The task of one row; `key` where no column holds one."""
        name = _column(row, self.answer, "answer", place)
        answer = _text(row, name, "answer", place)
        trace = self._optional(row, self.trace, "trace", place)
        if self.answer_pattern:
            found = re.findall(self.answer_pattern, answer)
            if not found:
                raise ValueError(
                    f"{place}: column {name!r} does not match answer_pattern = {self.answer_pattern!r}: {answer[-80:]!r}"
                )
            answer = found[-1]
        elif name == self.trace:
            stated = extract_answer(answer)
            if stated is None:
                raise ValueError(
                    f"{place}: column {name!r} is the worked solution, but states no answer as \\boxed{{...}}, after "
                    "#### or after 'The answer is'; set answer_pattern"
                )
            answer = stated
        return Task(
            key=self._optional(row, self.key, "key", place) or key,
            prompt=_text(row, _column(row, self.prompt, "prompt", place), "prompt", place),
            answer=answer.strip(),
            trace=trace,
            answer_spans=self._spans(row, trace, answer, place),
            meta={name: row[name] for name in self.extra if row.get(name) is not None},
        )

    def _spans(self, row: Mapping[str, Any], trace: str | None, answer: str, place: str) -> tuple[tuple[int, int], ...]:
        given = row.get(SPANS)
        if trace is None or not isinstance(given, list):
            return locate_answers(trace, answer, self.answer_pattern) if trace else ()
        if not all(isinstance(span, list) and [type(end) for end in span] == [int, int] for span in given):
            raise ValueError(f"{place}: column {SPANS!r} must be a list of pairs [from, to], not {given!r}")
        return tuple((start, end) for start, end in given)

    def _optional(self, row: Mapping[str, Any], column: str | None, role: str, place: str) -> str | None:
        if column is None or (self.lenient and column not in row):
            return None
        _column(row, column, role, place)
        if row[column] is None and role == "trace":
            return None
        return _text(row, column, role, place) or None


def _column(row: Mapping[str, Any], names: str | tuple[str, ...], role: str, place: str) -> str:
    names = (names,) if isinstance(names, str) else names
    for name in names:
        if row.get(name) is not None or (name in row and len(names) == 1):
            return name
    wanted = " or ".join(map(repr, names))
    raise ValueError(f"{place}: no column {wanted} for the {role}; it has {', '.join(map(repr, row))}")


def _text(row: Mapping[str, Any], column: str, role: str, place: str) -> str:
    value = row[column]
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    raise ValueError(
        f"{place}: column {column!r} for the {role} is a {type(value).__name__}, text or a number is needed"
    )
