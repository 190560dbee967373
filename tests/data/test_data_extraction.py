"""Where texts state their answers, for verdicts (the last one) and for hints (all of them)."""

from __future__ import annotations

import re
import time
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from igpo_data import Math, Task, extract_answer, locate_answers


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("so \\boxed{12}.", "12"),
        ("\\boxed{1} no, \\boxed{2}", "2"),
        ("\\boxed{\\frac{1}{\\sqrt{2}}}", "\\frac{1}{\\sqrt{2}}"),
        ("\\boxed{\\{1, 2\\}}", "\\{1, 2\\}"),
        ("\\boxed {3}", "3"),
        ("\\boxed 3$", "3"),
        ("\\fbox{3}", "3"),
        ("<answer>\nboxed{27}\n</answer>", "27"),
        ("\\boxed{4500\n</answer>", "4500"),
        ("\\boxed{120\n</answer}", "120"),
        ("\\boxed{225>", "225"),
        ("\\boxed{34", "34"),
        ("\\boxed{5} and #### 6", "5"),
        ("\\boxed{}32\n</answer>", "32"),
        ("\\boxed{ }\\$3,200", "\\$3,200"),
        ("<answer>_ _ Q _</answer>", "_ _ Q _"),
        ("#### 1,080", "1,080"),
        ("a\n#### 12\nThe answer is: 12", "12"),
        ("#### Conclusion\nThe answer is 5.", "5"),
        ("The answer is: $\\frac{1}{2}$.", "$\\frac{1}{2}$"),
        ("The answer is not 12 but 13", "not 12 but 13"),
        ("The answer to the question is 12.", "12"),
        ("The answer is 12, because 5 + 7 = 12.", "12"),
        ("The answer is 12 (since 5 + 7 = 12)", "12"),
        ("The answer is 3, 4", "3, 4"),
        ("Therefore the final answer is 3.5. That was easy.", "3.5"),
        ("**Answer:** 12", "12"),
        ("The answer is:\n\\[\n5\n\\]", "\\[\n5\n\\]"),
        ("<answer>\n5 changes/day\n</answer>", "5 changes/day"),
        ("<answer>7", "7"),
    ],
)
def test_the_final_statement_is_read(text: str, answer: str) -> None:
    assert extract_answer(text) == answer


@pytest.mark.parametrize(
    "text",
    ["", "   ", "12", "so x = 12", "\\boxed{}", "\\boxed{}.", "\\boxed{} is 12 or so", "\\boxed{12} \\boxed{}", "\\boxed{  }", "####", "The answer is", "a boxed set of 3",
     "\\boxed{" + "1" * 5_000 + "}"],
)  # fmt: skip
def test_no_statement_no_answer(text: str) -> None:
    assert extract_answer(text) is None


def test_trap_7_text_behind_the_eos_and_earlier_boxes_do_not_count(math: Math) -> None:
    """Cutting at the first EOS is the caller's business; of what is left the last box counts."""
    task = Task(key="t", prompt="", answer="12")
    text = "\\boxed{11}, wait: \\boxed{12}<eos>\\boxed{13}"
    assert math(text.split("<eos>")[0], task).correct
    assert not math(text, task).correct  # faulty: what stands behind the EOS is judged
    first_box = re.search(r"\\boxed\{(\d+)\}", text)
    assert first_box is not None
    assert first_box[1] != "12"  # faulty: the first box


@pytest.mark.parametrize(
    ("trace", "answer", "hidden"),
    [
        ("a = 1\n#### 72", "72", ["72"]),
        ("#### 1,080\nThe answer is: 1080", "1080", ["1,080", "1080"]),
        ("is $\\boxed{\\frac{1}{2}}$ or \\boxed{0.5}", "1/2", ["\\frac{1}{2}", "0.5"]),
        ("\\boxed{\\boxed{5}}", "5", ["\\boxed{5}"]),
        ("The answer is: 8 apples.\n#### 8", "8", ["8 apples", "8"]),
        ("The answer is approx. 12", "12", ["approx. 12"]),
        ("The answer is 5 because 2 + 3 = 5. Five it is.\nbye", "5", ["5 because 2 + 3 = 5. Five it is"]),
        ("The answer is therefore 3.\n#### 3", "3", ["therefore 3", "3"]),
        ("The answer is: $$\n12\n$$ done", "12", ["$$\n12\n$$ done"]),
        ("The answer is:\n\\begin{pmatrix}\n1\\\\\n2\n\\end{pmatrix}\nbye", "\\begin{pmatrix}1\\\\2\\end{pmatrix}",
         ["\\begin{pmatrix}\n1\\\\\n2\n\\end{pmatrix}"]),
        ("\\boxed{12", "12", ["12"]),
        ("\\boxed{}12", "12", ["12"]),
        ("<answer>12</answer>", "12", ["12"]),
        ("the result is 12", "12", []),
        ("\\boxed{x = 3} so it is 12", "12", []),
        ("#### 13", "12", []),
        ("#### ", "", []),
        ("", "1", []),
    ],
)  # fmt: skip
def test_every_statement_is_located(trace: str, answer: str, hidden: list[str]) -> None:
    assert [trace[start:end] for start, end in locate_answers(trace, answer)] == hidden


def test_a_pattern_adds_statements_of_another_form() -> None:
    trace = "so we get: 12!\n=> 12"
    assert locate_answers(trace, "12") == ()
    assert [trace[slice(*span)] for span in locate_answers(trace, "12", r"=> (.*)")] == ["12"]


NOISE = st.text("abc xyz.,=+-$%\n{}()\\<>", max_size=30)
STATEMENTS = st.sampled_from(
    ["\\boxed{%s}", "\\boxed{{%s}}", "\n#### %s\n", "\nThe answer is: %s\n", "\nThe answer is %s.\n", "\n**Answer:** %s\n",
     "\nthe final answer is {%s}\n", "<answer>%s</answer>", "\n#### \\boxed{%s}\n"]
)  # fmt: skip


@given(st.lists(st.tuples(NOISE, STATEMENTS), min_size=1, max_size=5), NOISE)
@settings(max_examples=300)
def test_no_statement_of_the_answer_is_left_outside_the_spans(pieces: list[tuple[str, str]], end: str) -> None:
    answer = "4711"
    trace = "".join(noise + statement % answer for noise, statement in pieces) + end
    spans = locate_answers(trace, answer)
    assert spans, trace
    assert all(0 <= start < stop <= len(trace) for start, stop in spans)
    assert all(left[1] <= right[0] for left, right in pairwise(spans))
    shown, position = "", 0
    for start, stop in spans:
        shown += trace[position:start] + "|"
        position = stop
    assert answer not in shown + trace[position:]


@given(st.text("\\boxed{}answer is:#$<>/ \n0123()[]", max_size=300), st.text(max_size=5))
@settings(max_examples=300)
def test_any_text_is_read_without_an_exception(text: str, answer: str) -> None:
    stated = extract_answer(text)
    assert stated is None or (stated.strip() and stated in text)
    for start, end in locate_answers(text, answer):
        assert text[start:end].strip()


@pytest.mark.parametrize(
    "text",
    ["\\boxed{" * 100_000, "\\boxed" * 100_000, "#### " * 200_000, "the answer is " * 80_000, "{" * 1_000_000, "[" * 2_000_000,
     "\\boxed{" + "}{" * 500_000, "answer" * 200_000, "#### " + "\\begin{" * 200_000, "\\[ \n" * 200_000, "<answer>" * 100_000],
    ids=lambda text: text[:12],
)  # fmt: skip
def test_megabytes_take_linear_time(text: str) -> None:
    started = time.process_time()
    extract_answer(text)
    once = time.process_time() - started
    locate_answers(text[:200_000], "12")
    assert once < 5
    assert time.process_time() - started < 15
