"""Programming problems whose answer is a program that passes tests: HumanEval (arXiv 2107.03374) and MBPP (arXiv 2108.07732).

Which of the two a row is, its columns say. The tests are in `meta` for the verifier `code`; nothing is run here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from attrs import field, frozen, validators

from igpo_data.task import Task
from igpo_data.tasks.huggingface import load_rows

HUBS = {"humaneval": ("openai/openai_humaneval", None), "mbpp": ("google-research-datasets/mbpp", "sanitized")}
HUMANEVAL = ("task_id", "prompt", "canonical_solution", "test", "entry_point")
MBPP = ("task_id", "code", "test_list")


@frozen(kw_only=True)
class Code:
    """Programming problems with tests, HumanEval or MBPP: 164 or (sanitized) 120 to train on and 257 to test."""

    dataset: Literal["humaneval", "mbpp"] = field(default="humaneval", validator=validators.in_(tuple(HUBS)))
    """Which one is taken from the hub: humaneval (test) or mbpp (train, validation, test, prompt)."""
    path: str | None = None
    """A folder with test.jsonl (also .gz, .parquet) or one such file. Its columns tell which of the two it is."""

    hub = "openai/openai_humaneval"

    def __call__(self, split: str) -> list[Task]:
        """The problems in order. meta: tests, entry_point, prefix (see `Task`); the trace is the reference program.

        A program has no answer span, so these tasks give no hints.
        """
        hub, config = HUBS[self.dataset]
        return [_task(place, row) for place, row in load_rows(self.path or hub, config, split)]


def _task(place: str, row: Mapping[str, Any]) -> Task:
    if all(name in row for name in HUMANEVAL):
        program = row["prompt"] + row["canonical_solution"]
        meta = {"tests": row["test"], "entry_point": row["entry_point"], "prefix": row["prompt"]}
        return Task(key=str(row["task_id"]), prompt=row["prompt"], answer=program, trace=program, meta=meta)
    question = row.get("prompt") or row.get("text")
    if question is None or not all(name in row for name in MBPP):
        raise ValueError(
            f"{place}: neither HumanEval ({', '.join(HUMANEVAL)}) nor MBPP (prompt or text, {', '.join(MBPP)}); it has "
            f"{', '.join(row)}"
        )
    before = [row.get("test_setup_code") or "", *(row.get("test_imports") or ())]
    return Task(
        key=f"mbpp/{row['task_id']}",
        # As its authors ask: the question with the tests, which name the function.
        prompt=question + "\nYour code should pass these tests:\n" + "\n".join(row["test_list"]),
        answer=row["code"],
        trace=row["code"],
        meta={"tests": "\n".join(filter(None, [*before, *row["test_list"]])), "entry_point": "", "prefix": ""},
    )
