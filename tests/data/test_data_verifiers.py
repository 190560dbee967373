"""Verifiers besides `math`: what each takes for right, what it must not, and how several become one."""

from __future__ import annotations

import re
import time
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from igpo_data import (
    AllOf,
    Choice,
    Countdown,
    Exact,
    JsonField,
    Math,
    Numeric,
    ReasoningGym,
    Regex,
    Sudoku,
    Task,
    Weighted,
)
from igpo_data.testing import check_verifier
from igpo_data.verifiers.countdown import evaluate
from igpo_data.verifiers.sudoku import solves


def task(answer: str = "", **meta: object) -> Task:
    return Task(key="t", prompt="", answer=answer, meta=meta)


def test_choice_reads_one_letter_however_it_is_set() -> None:
    right = ["\\boxed{C}", "(C)", "The answer is (C)", "The answer is C.", "\\boxed{\\text{(C) } 12}", "Answer: c", "#### C: the cat",
             "The answer is option C", "\\boxed{\\textbf{(C)}~3.5}", "\\boxed{C) 12 cm}", "**Answer:** **C**", "C"]  # fmt: skip
    wrong = ["\\boxed{A or C}", "\\boxed{C or D}", "\\boxed{C, D}", "\\boxed{B}", "#### C and D", "\\boxed{C) D)}", "\\boxed{not C}",
             "\\boxed{CC}", "\\boxed{(C) or (D)}", "\\boxed{Cat}", "\\boxed{C} \\boxed{D}", "so C it is", "\\boxed{C. or D.}"]  # fmt: skip
    check_verifier(Choice(), task("C"), right, wrong)
    check_verifier(Choice(), task("\\boxed{\\text{(C)}}"), right, wrong)
    assert Choice(letters="AB")("\\boxed{C}", task("C")).note == "unverifiable"


def test_choice_takes_the_text_of_a_choice_for_its_letter() -> None:
    right = ["\\boxed{B}", "\\boxed{2}", "\\boxed{B. 2}", "\\boxed{2.0}"]
    wrong = ["\\boxed{B. 3}", "\\boxed{3}", "\\boxed{1 or 2}", "\\boxed{22}"]
    check_verifier(Choice(), task("B", choices=["1", "2", "3"]), right, wrong)
    assert not Choice()("\\boxed{2}", task("B", choices=["2", "2.0", "3"])).correct  # it names two of them


def test_regex_finds_the_answer_in_a_form() -> None:
    check_verifier(
        Regex(pattern="#### {answer}$"), task("1.5"), ["#### 1.5", "so\n#### 1.5"], ["#### 1x5", "#### 1.50", "1.5"]
    )
    shape = Regex(pattern=r"(?s)\A<think>.+</think>\s*<answer>.+</answer>\Z")
    check_verifier(
        shape,
        task(),
        ["<think>a\nb</think><answer>\n1</answer>"],
        ["<answer>1</answer>", "<think></think><answer>1</answer>"],
    )
    assert shape("<think>a</think><answer>1</answer>", task()).answer == "<think>a</think><answer>1</answer>"
    for pattern in ("^{answer}$", "{answer}$", "{answer}"):
        check_verifier(Regex(pattern=pattern), task("1.5"), ["1.5"], ["1x5", "", "2"])
    for wrong in ("(", "a*", "", "x?$", "({answer})?"):
        with pytest.raises(ValueError, match="pattern"):
            Regex(pattern=wrong)
    assert Regex(pattern="#{answer}")("#", task()).note == "unverifiable"


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|aa)+$", "(.*a){12}$", r"(\w+\s?)+$"])
def test_a_pattern_that_backtracks_for_ever_is_stopped(pattern: str) -> None:
    verifier = Regex(pattern=pattern, timeout=0.3, workers=1)
    started = time.monotonic()
    verdicts = verifier.many([("a" * 60 + "!", task()), ("aaaaaaaaaaaa", task())])
    assert [(verdict.correct, verdict.note) for verdict in verdicts] == [(False, "timeout"), (True, "")]
    assert time.monotonic() - started < 20
    verifier.close()


def test_json_field() -> None:
    right = [
        '{"answer": 12}',
        'text {"a": {"answer": 3}} then ```json\n{"answer": "12.0"}\n```',
        '\\frac{1}{2} {"answer": 12}',
        '{"answer": 12} end {',
    ]
    wrong = [
        '{"answer": 13}',
        '{"answer": [12]}',
        '{"answer": 12} {"answer": null}',
        '{"answer": 12',
        '{"a": {"answer": 12}}',
        "12",
        '{"answer": true}',
    ]
    check_verifier(JsonField(), task("12"), right, wrong)
    check_verifier(
        JsonField(path="r.values.1"),
        task('["a", 2]'),
        ['{"r": {"values": [0, ["a", 2.0]]}}'],
        ['{"r": {"values": [0, [2, "a"]]}}', '{"r": {"values": [0]}}'],
    )
    assert not JsonField()('{"answer": 1}', task("true")).correct
    assert JsonField()('{"answer": true}', task("true")).correct
    assert not JsonField()('{"answer": ""}', task("")).correct


@pytest.mark.parametrize(
    "text",
    [
        '{"a":' * 30_000,
        '{"a": [' + "1," * 90_000,
        '{"' * 100_000,
        '{"answer": ' + "9" * 100_000 + "}",
        '{"a": "' + "{" * 199_000,
    ],
)
def test_json_that_never_ends_costs_little(text: str) -> None:
    started = time.process_time()
    assert not JsonField()(text, task("12")).correct
    assert time.process_time() - started < 3


def test_countdown_takes_any_expression_that_uses_the_numbers() -> None:
    right = [
        "\\boxed{95 - 73 + 7}",
        "<answer> 7+95-73 = 29</answer>",
        "<answer>(7+(95-73))</answer>",
        "\\boxed{\\left(95-73\\right)+7}",
        "\\boxed{7 − (73 - 95)}",
    ]
    wrong = [
        "\\boxed{22+7}",
        "\\boxed{29}",
        "\\boxed{95-73}",
        "\\boxed{95-73+7+73-73}",
        "\\boxed{95-73+7+0}",
        "\\boxed{73-95+7}",
        "\\boxed{95 73 7}",
        "\\boxed{95-73+7)}",
    ]
    check_verifier(Countdown(), task(numbers=[95, 73, 7], target=29), right, wrong)
    check_verifier(Countdown(), task("[[95, 73, 7], 29]"), right, wrong)
    check_verifier(
        Countdown(every_number=False),
        task(numbers=[29, 73, 7], target=29),
        ["\\boxed{29}"],
        ["\\boxed{30-1}", "\\boxed{29+7-7}"],
    )
    assert Countdown()("\\boxed{1}", task("no problem")).note == "unverifiable"


@pytest.mark.parametrize(
    ("text", "value"),
    [("(95 - 73) / 7", Fraction(22, 7)), ("3 \\times (4+5)", 27), ("\\frac{8}{4} - -3", 5), ("3 x 4", 12), ("8 ÷ 4 ÷ 2", 1), ("[2+3]*{4}", 20), ("10 - 4 - 3", 3),
     ("1/0", None), ("2**3", None), ("2^3", None), ("__import__('os')", None), ("1e3", None), ("(" * 300 + "1", None), ("9" * 50, None), ("", None), ("(1+2", None), ("1 2", None)],
)  # fmt: skip
def test_expressions_are_read_exactly(text: str, value: object) -> None:
    result = evaluate(text)
    assert (result[0] if result else None) == value


TREES = st.recursive(
    st.integers(0, 99).map(str),
    lambda inner: st.tuples(inner, st.sampled_from("+-*/"), inner).map(lambda parts: "(" + " ".join(parts) + ")"),
    max_leaves=8,
)


@given(TREES)
@settings(max_examples=200)
def test_expressions_come_to_what_python_says(text: str) -> None:
    try:
        expected = eval(re.sub(r"\d+", r"Fraction(\g<0>)", text), {"Fraction": Fraction})
    except ZeroDivisionError:
        expected = None
    result = evaluate(text)
    assert (result[0] if result else None) == expected
    assert result is None or sorted(result[1]) == sorted(map(int, re.findall(r"\d+", text)))


GRID = "1432231432414123"


def test_sudoku_takes_a_grid_that_completes_the_puzzle() -> None:
    puzzle = "1002031030004023"
    rows = "\n".join(GRID[i : i + 4] for i in range(0, 16, 4))
    right = [f"<answer>\n{rows}\n</answer>", f"\\boxed{{{GRID}}}", f"<answer>{', '.join(GRID)}</answer>", "<answer>" + "\n".join("| " + " | ".join(row) + " |" for row in rows.split()) + "</answer>",
             f"\\boxed{{\\begin{{bmatrix}}{' & '.join(GRID)}\\end{{bmatrix}}}}"]  # fmt: skip
    wrong = [
        f"<answer>{puzzle}</answer>",
        "<answer>1432231432414132</answer>",
        f"<answer>{GRID}1</answer>",
        f"<answer>row {GRID}</answer>",
        "\\boxed{1234}",
        GRID,
    ]
    check_verifier(Sudoku(), task(GRID, puzzle=puzzle), right, wrong)
    check_verifier(Sudoku(), task(GRID), right, wrong)
    check_verifier(
        Sudoku(),
        task(entry={"metadata": {"puzzle": [[1, 0, 0, 2], [0, 3, 1, 0], [3, 0, 0, 0], [4, 0, 2, 3]]}}),
        right,
        wrong,
    )


def test_any_valid_grid_counts_and_every_rule_does() -> None:
    assert solves("0" * 16, GRID)
    assert solves("0" * 81, "".join(str((3 * (r % 3) + r // 3 + c) % 9 + 1) for r in range(9) for c in range(9)))
    assert not solves(
        "0" * 81, "".join(str((r + c) % 9 + 1) for r in range(9) for c in range(9))
    )  # rows and columns, not boxes
    assert not solves("0" * 16, "1234" * 4)
    for i in range(16):
        changed = GRID[:i] + str(int(GRID[i]) % 4 + 1) + GRID[i + 1 :]
        assert not solves("0" * 16, changed)


@pytest.fixture(scope="module")
def gym() -> ReasoningGym:
    return ReasoningGym(timeout=10.0)


def entry(name: str, seed: int = 1) -> Task:
    import random

    import reasoning_gym

    state = random.getstate()
    found = reasoning_gym.create_dataset(name, seed=seed, size=1)[0]
    random.setstate(state)
    return Task(key=name, prompt=found["question"], answer=str(found["answer"]), meta={"dataset": name, "entry": found})


@pytest.mark.parametrize(
    "name",
    [
        "gsm_symbolic",
        "spiral_matrix",
        "basic_arithmetic",
        "mini_sudoku",
        "kakurasu",
        "game_of_life_halting",
        "prime_factorization",
    ],
)
def test_only_the_full_score_of_a_scorer_counts(gym: ReasoningGym, name: str) -> None:
    problem = entry(name)
    check_verifier(
        gym,
        problem,
        [f"<answer>{problem.answer}</answer>"],
        [f"<answer>not {problem.answer}</answer>", "<answer>banana</answer>", problem.answer],
    )


def test_a_scorer_that_evaluates_is_not_given_the_text(gym: ReasoningGym, tmp_path: Path) -> None:
    """countdown reads the text with sympy, spiral_matrix with eval; both would run it."""
    import reasoning_gym

    trap = tmp_path / "executed"
    attack = f"__import__('pathlib').Path('{trap}').touch()"
    for name in ("countdown", "spiral_matrix", "polynomial_multiplication", "string_insertion"):
        problem = entry(name)
        assert not gym(f"<answer>{attack}</answer>", problem).correct
        assert gym(f"<answer>{problem.answer}</answer>", problem).correct
    assert gym("<answer>1 + 1</answer>", entry("countdown")).note == "unverifiable"
    assert not trap.exists()
    problem = entry("spiral_matrix")  # Faulty: the scorer alone.
    reasoning_gym.get_score_answer_fn("spiral_matrix")(attack, problem.meta["entry"])
    assert trap.exists()


def test_a_problem_from_a_file_runs_nothing_either(gym: ReasoningGym, tmp_path: Path) -> None:
    """bitwise_arithmetic calculates its problem by eval, and the problem may be a column of a stranger's file."""
    honest = entry("bitwise_arithmetic")
    assert gym(f"<answer>{int(honest.answer, 0)}</answer>", honest).correct
    trap = tmp_path / "executed"
    for attack in (f"__import__('pathlib').Path('{trap}').touch() or 0", f"[0 for _ in [open('{trap}', 'w')]][0]"):
        stated = {"source_dataset": "bitwise_arithmetic", "problem": attack}
        problem = Task(
            key="t", prompt="", answer="1", meta={"entry": {"question": "", "answer": "0x1", "metadata": stated}}
        )
        assert not gym("<answer>0</answer>", problem).correct
    assert not trap.exists()


def test_the_score_can_be_the_reward(gym: ReasoningGym) -> None:
    problem = entry("spiral_matrix")
    listed = f"<answer>{[int(number) for number in problem.answer.split()]}</answer>"
    partly = ReasoningGym(partial=True, timeout=10.0)(listed, problem)
    assert (partly.reward, partly.correct, partly.note) == (0.1, False, "")
    assert gym(listed, problem).reward == 0.0
    assert gym("\\boxed{1}", task("1")).note == "unverifiable"


SHAPE = Regex(pattern=r"(?s)<answer>.+</answer>")


def test_all_of_wants_every_part() -> None:
    check_verifier(
        AllOf(parts=(Numeric(), SHAPE)),
        task("12"),
        ["<answer>\\boxed{12}</answer>"],
        ["\\boxed{12}", "<answer>13</answer>"],
    )
    assert AllOf(parts=(Numeric(), SHAPE))("\\boxed{12}", task("12")).answer == "12"
    with pytest.raises(ValueError, match="parts"):
        AllOf(parts=())


def test_weighted_keeps_reward_and_correct_apart(math: Math) -> None:
    wrong_but_in_form, right_without_form, both = "<answer>13</answer>", "\\boxed{12}", "<answer>12</answer>"
    rewards = Weighted(parts=(math, SHAPE), weights=(3.0, 0.75), decide=(0,))
    found = rewards.many([(text, task("12")) for text in (wrong_but_in_form, right_without_form, both, "")])
    assert [(verdict.reward, verdict.correct) for verdict in found] == [
        (0.75, False),
        (3.0, True),
        (3.75, True),
        (0.0, False),
    ]
    everything = Weighted(parts=(math, SHAPE), weights=(3.0, 0.75))
    assert [everything(text, task("12")).correct for text in (wrong_but_in_form, right_without_form, both)] == [
        False,
        False,
        True,
    ]
    for wrong in ({"weights": (1.0,)}, {"weights": (1.0, float("nan"))}, {"decide": (2,)}, {"decide": (-1,)}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Weighted(**({"parts": (math, SHAPE), "weights": (1.0, 1.0)} | wrong))  # type: ignore[arg-type]


def test_what_a_part_cannot_verify_is_unverifiable(math: Math) -> None:
    """A group with such a row never triggers hints, whatever its other rows are."""
    for verifier in (
        AllOf(parts=(Exact(), ReasoningGym())),
        Weighted(parts=(Exact(), ReasoningGym()), weights=(1.0, 1.0)),
    ):
        assert verifier("\\boxed{13}", task("12")).note == "unverifiable"
