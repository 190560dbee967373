"""GSM8K: grade-school word problems with worked answers that end in `#### N` (Cobbe et al., arXiv 2110.14168)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from attrs import frozen

from igpo_data.task import Task
from igpo_data.tasks.huggingface import load_rows
from igpo_data.tasks.records import Columns, read_jsonl, split_file

HUB = "openai/gsm8k"
CALCULATOR = re.compile(r"<<[^<>\n]{0,200}>>")


@frozen(kw_only=True)
class GSM8K:
    """Grade-school word problems with worked solutions: 7,473 to train on, 1,319 to test."""

    path: str | None = None
    """A folder with train.jsonl and test.jsonl (also .gz) or one such file. Default: the hub's openai/gsm8k."""
    calculator: bool = False
    """Keep the calculator marks <<48/2=24>> in the worked solutions."""

    def __call__(self, split: str) -> list[Task]:
        """The problems of "train" or "test" in order; the trace keeps its last line `#### N`, of which N is hidden."""
        columns = Columns(prompt="question", answer="answer", trace="answer", answer_pattern=r"####[ \t]*(\S.*)")
        return columns.tasks(((place, self._plain(row)) for place, row in self._rows(split)), f"gsm8k/{split}")

    def _rows(self, split: str) -> Iterable[tuple[str, Mapping[str, Any]]]:
        if self.path is None:
            return load_rows(HUB, "main", split)
        return read_jsonl(split_file(Path(self.path), split))

    def _plain(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        if self.calculator or not isinstance(row.get("answer"), str):
            return row
        return {**row, "answer": CALCULATOR.sub("", row["answer"])}
