"""OpenR1-Math-220k: competition problems with long verified solutions of DeepSeek-R1, the raw material of length-aligned SFT.

Of its columns are read: problem, solution (by people), answer, generations and correctness_math_verify (lists of equal
length; the second may be null), source and uuid.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from attrs import field, frozen, validators

from igpo_data.extraction import locate_answers
from igpo_data.task import Task
from igpo_data.tasks.files import Row
from igpo_data.tasks.huggingface import load_rows

CONFIGS = ("default", "extended", "all")


@frozen(kw_only=True)
class OpenR1Math:
    """Competition problems with long verified solutions of a reasoning model, to be rewritten into concise ones."""

    path: str | None = None
    """A folder with train.jsonl or train-*.parquet, or one such file. Default: the hub's open-r1/OpenR1-Math-220k."""
    config: str = field(default="default", validator=validators.in_(CONFIGS))
    """Of the hub's data set: default (94k problems), extended (131k) or all."""
    trace: Literal["generation", "solution"] = field(
        default="generation", validator=validators.in_(("generation", "solution"))
    )
    """The worked solution: the model's first verified generation (long), or the one by people."""
    stream: bool = False
    """Read rows when they are asked for: the whole set takes 10 GB."""

    splits = ("train",)
    hub = "open-r1/OpenR1-Math-220k"

    def __call__(self, split: str) -> list[Task] | Iterable[Task]:
        """The problems in order. Rows without an answer are left out, and warned of at the end."""
        if split not in self.splits:
            raise ValueError(f"openr1-math has no split {split!r}; it has only train")
        tasks = self._tasks(load_rows(self.path or self.hub, self.config, split, stream=self.stream))
        return tasks if self.stream else list(tasks)

    def _tasks(self, rows: Iterable[Row]) -> Iterator[Task]:
        left_out = 0
        for index, (place, row) in enumerate(rows):
            prompt, answer = row.get("problem"), row.get("answer")
            if not isinstance(prompt, str):
                raise ValueError(f"{place}: no text in the column 'problem'; it has {', '.join(row)}")
            if not isinstance(answer, str) or not answer.strip():
                left_out += 1
                continue
            trace = row.get("solution") if self.trace == "solution" else verified(row)
            yield Task(
                key=f"openr1-math/{row.get('uuid') or ''}/{index}",  # a uuid occurs twice there
                prompt=prompt,
                answer=answer.strip(),
                trace=trace or None,
                answer_spans=locate_answers(trace, answer) if trace else (),
                meta={"source": row["source"]} if row.get("source") else {},
            )
        if left_out:
            warnings.warn(f"openr1-math: {left_out:,} rows without an answer are left out", stacklevel=2)


def verified(row: Mapping[str, Any]) -> str | None:
    """The first generation that math-verify found right; without its verdicts the first one."""
    generations: Sequence[str] = row.get("generations") or ()
    right: Sequence[bool] = row.get("correctness_math_verify") or ()
    if right:
        return next((text for text, correct in zip(generations, right, strict=False) if correct), None)
    return next(iter(generations), None)
