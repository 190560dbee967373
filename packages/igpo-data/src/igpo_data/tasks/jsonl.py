"""Tasks from a local file, one JSON object a line: the way to bring one's own data."""

from __future__ import annotations

from pathlib import Path

from attrs import field, frozen, validators

from igpo_data.task import Task
from igpo_data.tasks.records import Columns, read_jsonl, split_file


@frozen(kw_only=True)
class Jsonl:
    """Your own problems from a .jsonl or .jsonl.gz file."""

    path: str = field(validator=validators.min_len(1))
    """A file, a path with {split} in it, or a folder with SPLIT.jsonl(.gz). A plain file is every split."""
    prompt: str = "prompt"
    """Column of the question."""
    answer: str = "answer"
    """Column of the reference answer; the same as `trace` where only the solution states it."""
    trace: str | None = None
    """Column of the worked solution, or none: then there are no hints."""
    key: str | None = None
    """Column of a unique, stable name of the problem; otherwise its place in the file."""
    answer_pattern: str | None = None
    """Regular expression with one group that finds the answer in its column, and hides it in the trace."""

    def __attrs_post_init__(self) -> None:
        self._columns()

    def __call__(self, split: str) -> list[Task]:
        """The rows of the split's file in order; ValueError names file, line and column of a bad row."""
        file = split_file(Path(self.path), split)
        return self._columns().tasks(
            read_jsonl(file), f"{file.name.removesuffix('.gz').removesuffix('.jsonl')}/{split}"
        )

    def _columns(self) -> Columns:
        return Columns(
            prompt=self.prompt, answer=self.answer, trace=self.trace, key=self.key, answer_pattern=self.answer_pattern
        )
