"""Tasks from local files, one row a problem: the way to bring one's own data."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from attrs import field, frozen, validators

from igpo_data.task import Task
from igpo_data.tasks.files import ENDINGS, read_files, split_files
from igpo_data.tasks.records import Columns


@frozen(kw_only=True)
class Jsonl:
    """Your own problems from a file: .jsonl, .json, .csv or .parquet, also .gz."""

    path: str = field(validator=validators.min_len(1))
    """A file, a path with {split} in it, or a folder with SPLIT.jsonl and its like. A plain file is every split."""
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
    extra: tuple[str, ...] = ()
    """Columns that go into the task's meta, for a verifier or to choose by (level, tests)."""
    stream: bool = False
    """Read a row when it is asked for, so that the file may be larger than memory."""

    def __attrs_post_init__(self) -> None:
        self._columns()

    def __call__(self, split: str) -> list[Task] | Iterable[Task]:
        """The rows of the split's files in order; ValueError names file, line and column of a bad row."""
        files = split_files(self.path, split)
        tasks = self._columns().tasks(read_files(files), f"{_stem(files[0])}/{split}")
        return tasks if self.stream else list(tasks)

    def _columns(self) -> Columns:
        return Columns(
            prompt=self.prompt,
            answer=self.answer,
            trace=self.trace,
            key=self.key,
            answer_pattern=self.answer_pattern,
            extra=self.extra,
        )


def _stem(file: Path) -> str:
    return next((file.name.removesuffix(ending) for ending in ENDINGS if file.name.endswith(ending)), file.name)
