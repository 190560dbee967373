"""From rows of a data set to tasks: which column is what, and where in the trace the answer is stated.

Whatever is wrong with a row is said with its place and the column, because data sets are where runs go wrong silently.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from attrs import field, frozen, validators

from igpo_data.extraction import extract_answer, locate_answers
from igpo_data.task import Task


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
    """Which columns of a row hold what."""

    prompt: str
    answer: str
    trace: str | None = None
    key: str | None = None
    answer_pattern: str | None = field(default=None, validator=validators.optional(validators.instance_of(str)))

    def __attrs_post_init__(self) -> None:
        if error := pattern_error(self.answer_pattern):
            raise ValueError(error)

    def tasks(self, rows: Iterable[tuple[str, Mapping[str, Any]]], source: str) -> list[Task]:
        """One task a row; rows come with the place that errors name. `source` starts the keys of rows without one."""
        return [self._task(row, place, f"{source}/{index}") for index, (place, row) in enumerate(rows)]

    def _task(self, row: Mapping[str, Any], place: str, key: str) -> Task:
        answer = _text(row, self.answer, "answer", place)
        trace = _text(row, self.trace, "trace", place) if self.trace else None
        if self.answer_pattern:
            found = re.findall(self.answer_pattern, answer)
            if not found:
                raise ValueError(
                    f"{place}: column {self.answer!r} does not match answer_pattern = {self.answer_pattern!r}: "
                    f"{answer[-80:]!r}"
                )
            answer = found[-1]
        elif self.answer == self.trace:
            stated = extract_answer(answer)
            if stated is None:
                raise ValueError(
                    f"{place}: column {self.answer!r} is the worked solution, but states no answer as \\boxed{{...}}, after "
                    "#### or after 'The answer is'; set answer_pattern"
                )
            answer = stated
        return Task(
            key=_text(row, self.key, "key", place) if self.key else key,
            prompt=_text(row, self.prompt, "prompt", place),
            answer=answer.strip(),
            trace=trace,
            answer_spans=locate_answers(trace, answer, self.answer_pattern) if trace else (),
        )


def read_jsonl(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The objects of a .jsonl or .jsonl.gz file, each with its file and line; empty lines are skipped."""
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}:{number}: not JSON ({error}); one object a line is needed") from error
            if not isinstance(row, dict):
                raise ValueError(f"{path}:{number}: a JSON {type(row).__name__} instead of an object with columns")
            yield f"{path}:{number}", row


def split_file(path: Path, split: str) -> Path:
    """The file of a split: `path` itself, with {split} filled in, or SPLIT.jsonl(.gz) in the folder `path`."""
    filled = Path(str(path).replace("{split}", split)).expanduser()
    if filled.is_file():
        return filled
    names = [filled / f"{split}{suffix}" for suffix in (".jsonl", ".jsonl.gz")] if filled.is_dir() else []
    for name in names:
        if name.is_file():
            return name
    wanted = " or ".join(map(str, names)) or str(filled)
    raise FileNotFoundError(f"no data for the split {split!r}: {wanted} does not exist")


def _text(row: Mapping[str, Any], column: str, role: str, place: str) -> str:
    if column not in row:
        raise ValueError(f"{place}: no column {column!r} for the {role}; it has {', '.join(map(repr, row))}")
    value = row[column]
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    raise ValueError(
        f"{place}: column {column!r} for the {role} is a {type(value).__name__}, text or a number is needed"
    )
