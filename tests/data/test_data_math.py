"""The math verifier as a whole: it cannot be hung, crashed, starved or talked into a reward."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import pytest

from igpo_data import Exact, Math, Numeric, Task, verify
from igpo_data.testing import check_verifier

TWELVE = Task(key="t", prompt="", answer="12")


def test_conformance_and_hostile_text(math: Math) -> None:
    right = ["\\boxed{12}", "#### 12.0", "The answer is: $12$.", "\\boxed{11} \\boxed{12}", "\\boxed{2\\cdot 6}"]
    wrong = [
        "12",
        "\\boxed{12} \\boxed{13}",
        "\\boxed{12} \\boxed{}",
        "The answer is not 12 but 13",
        "\\boxed{12, 13}",
        "\\boxed{3\\cdot 6}",
    ]
    check_verifier(math, TWELVE, right, wrong)
    assert math("\\boxed{x+1}", Task(key="x", prompt="", answer="1+x")).correct  # the workers live


@pytest.mark.parametrize(
    ("answer", "note"),
    [
        ("9^{9^{9^{9}}}", "timeout"),
        ("100000000!", "timeout"),
        ("\\sum_{n=1}^{10^{9}} n^{n}", "timeout"),
        ("x+" * 250 + "1", "too-long"),
    ],
)
def test_what_costs_too_much_is_wrong_and_says_so(math: Math, answer: str, note: str) -> None:
    verdict = math(f"\\boxed{{{answer}}}", TWELVE)
    assert (verdict.correct, verdict.reward, verdict.note) == (False, 0.0, note)


def test_no_model_text_is_executed(math: Math, tmp_path: Path) -> None:
    trap = tmp_path / "executed"
    attacks = [
        f"__import__('os').system('touch {trap}')",
        f"open('{trap}','w')",
        f"exec(\"open('{trap}','w')\")",
        f"S(open('{trap}','w'))",
    ]
    for attack in attacks:
        for gold in ("12", "x+1", attack[:5]):
            math.many([(f"\\boxed{{{attack}}}", Task(key="t", prompt="", answer=gold)), (f"#### {attack}", TWELVE)])
    assert not trap.exists()
    # Faulty: sympy reads the same text by evaluating it.
    import sympy

    with contextlib.suppress(Exception):
        sympy.sympify(attacks[0])
    assert trap.exists()


def test_a_task_without_answer_is_unverifiable_and_a_text_without_answer_says_so(math: Math) -> None:
    assert math("\\boxed{}", Task(key="t", prompt="", answer="")).note == "unverifiable"
    assert math("\\boxed{1}", Task(key="t", prompt="", answer=" ")).note == "unverifiable"
    assert math("12", TWELVE).note == "no-answer"
    assert math("\\boxed{12 cm}", TWELVE).answer == "12 cm"
    assert math("\\boxed{12}", Task(key="t", prompt="", answer="3 * 4 = 12, so \\boxed{12}")).correct


def test_exact_compares_text() -> None:
    task = Task(key="t", prompt="", answer="left  right")
    check_verifier(
        Exact(),
        task,
        ["\\boxed{left right}", "#### left   right "],
        ["left right", "\\boxed{Left right}", "\\boxed{left}"],
    )
    check_verifier(Exact(stated=False, ignore_case=True), task, ["LEFT right\n"], ["\\boxed{left right}"])


def test_numeric_compares_within_a_tolerance() -> None:
    task = Task(key="t", prompt="", answer="4.5e33")
    right = ["\\boxed{4.5 \\times 10^{33}}", "\\boxed{4.54e33 \\text{ erg}}"]
    check_verifier(
        Numeric(tolerance=0.01),
        task,
        right,
        ["\\boxed{4.6e33}", "\\boxed{-4.5e33}", "\\boxed{4.5e32}", "\\boxed{x}", "4.5e33"],
    )
    near, hundred = (
        Numeric(tolerance=0.3),
        Task(key="z", prompt="", answer="100"),
    )  # 0.3 is 3/10, not the float below it
    stated = ("69.9", "70", "130", "130.1", "-100")
    assert [near(f"\\boxed{{{number}}}", hundred).correct for number in stated] == [False, True, True, False, False]
    assert not Numeric()("\\boxed{0.0001}", Task(key="z", prompt="", answer="0")).correct
    assert Numeric(tolerance=0.01)("\\boxed{50.1\\%}", Task(key="z", prompt="", answer="0.5")).correct
    assert not Numeric(tolerance=0.01)("\\boxed{50 cm}", Task(key="z", prompt="", answer="50 m")).correct
    assert Numeric()("\\boxed{1}", Task(key="z", prompt="", answer="x")).note == "unverifiable"


def test_options_are_checked() -> None:
    for wrong in ({"timeout": 0.0}, {"workers": 0}, {"memory": 1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Math(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="tolerance"):
        Numeric(tolerance=-1.0)


def test_verify_uses_many_and_keeps_the_order(math: Math) -> None:
    pairs = [(f"\\boxed{{{n}}}", Task(key=str(n), prompt="", answer=re.sub("7", "8", str(n)))) for n in range(100)]
    assert [verdict.correct for verdict in verify(math, pairs)] == ["7" not in str(n) for n in range(100)]
    assert [verdict.answer for verdict in verify(Exact(), pairs)] == [str(n) for n in range(100)]
