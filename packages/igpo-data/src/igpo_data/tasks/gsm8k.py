"""GSM8K: grade-school word problems with worked answers that end in `#### N` (Cobbe et al., arXiv 2110.14168)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from attrs import frozen

from igpo_data.task import Task
from igpo_data.tasks.huggingface import load_rows
from igpo_data.tasks.records import Columns

CALCULATOR = re.compile(r"<<[^<>\n]{0,200}>>")


@frozen(kw_only=True)
class GSM8K:
    """Grade-school word problems with worked solutions: 7,473 to train on, 1,319 to test."""

    path: str | None = None
    """A folder with train.jsonl and test.jsonl (also .gz, .parquet) or one such file. Default: the hub's openai/gsm8k."""
    calculator: bool = False
    """Keep the calculator marks <<48/2=24>> in the worked solutions."""

    splits = ("train", "test")
    hub = "openai/gsm8k"

    def __call__(self, split: str) -> list[Task]:
        """The problems of "train" or "test" in order; the trace keeps its last line `#### N`, of which N is hidden."""
        columns = Columns(prompt="question", answer="answer", trace="answer", answer_pattern=r"####[ \t]*(\S.*)")
        rows = load_rows(self.path or self.hub, "main", split)
        return list(columns.tasks(((place, self._plain(row)) for place, row in rows), f"gsm8k/{split}"))

    def _plain(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        if self.calculator or not isinstance(row.get("answer"), str):
            return row
        return {**row, "answer": CALCULATOR.sub("", row["answer"])}
