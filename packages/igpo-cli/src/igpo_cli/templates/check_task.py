"""The task source keeps the promises of its kind, and its solutions are right."""

from __future__ import annotations

from igpo_cli.templates.task import Mine
from igpo_data import Numeric
from igpo_data.testing import check_task_source


def test_keeps_the_promises_of_task_sources() -> None:
    for split in ("train", "test"):
        check_task_source(Mine(), split)


def test_a_worked_solution_is_right_and_hides_its_answer() -> None:
    for task in Mine()("train"):
        assert task.trace is not None
        assert Numeric()(task.trace, task).correct
        ((start, end),) = task.answer_spans
        assert task.trace[start:end] == f"{task.answer} #### {task.answer}"
        assert str(eval(task.prompt.removesuffix("= ?"))) == task.answer
