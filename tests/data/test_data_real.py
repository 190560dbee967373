"""Real problems and real completions of a diffusion model; skipped where the shared data sets are not at hand."""

from __future__ import annotations

import gzip
import json
import logging
import re
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from igpo_data import GSM8K, Jsonl, Math, Task
from igpo_data.answers import read_number

EOS = re.compile(r"<\|eot_id\|>|<\|endoftext\|>")


@pytest.fixture(scope="module")
def rollouts(real_data: Path) -> list[dict[str, Any]]:
    with gzip.open(real_data / "llada_rollouts" / "rollouts.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def pairs_of(rollouts: list[dict[str, Any]], task: str) -> list[tuple[str, Task]]:
    return [
        (EOS.split(row["completion"])[0], Task(key=str(i), prompt=row["question"], answer=str(row["answer"])))
        for i, row in enumerate(rollouts)
        if row["task"] == task
    ]


def test_every_gsm8k_trace_has_its_answer_located(real_data: Path) -> None:
    tasks = GSM8K(path=str(real_data / "gsm8k"))("train")
    assert len(tasks) == 7_473
    several = 0
    for task in tasks:
        assert task.trace is not None
        assert "<<" not in task.trace
        stated = [task.trace[slice(*span)] for span in task.answer_spans]
        assert stated[-1] == task.answer
        assert task.answer_spans[-1][1] == len(task.trace)
        assert task.trace[: task.answer_spans[-1][0]].endswith("#### ")
        several += len(stated) > 1
        for statement in re.finditer(r"(?:####|the answer is:?) *(?=\S)", task.trace, re.IGNORECASE):
            assert any(start <= statement.end() < end for start, end in task.answer_spans)
    assert several == 4  # traces that state the answer in words before the last line
    seen = sum(task.answer in (task.trace or "")[: task.answer_spans[0][0]] for task in tasks)
    print(f"traces that show the answer's value before it is stated: {seen / len(tasks):.3f}")
    assert 0.9 < seen / len(tasks) < 1.0  # a step's result, counted elsewhere


def test_every_reference_solution_verifies(real_data: Path, math: Math) -> None:
    tasks = GSM8K(path=str(real_data / "gsm8k"))("train")
    verdicts = math.many([(task.trace or "", task) for task in tasks])
    assert all(verdict.correct and not verdict.note for verdict in verdicts)
    minerva = Jsonl(path=str(real_data / "minerva_math"), prompt="problem", answer="solution", trace="solution")("test")
    assert len(minerva) == 272
    assert all(verdict.correct for verdict in math.many([(task.trace or "", task) for task in minerva]))
    assert sum(task.can_hint for task in minerva) == 272
    math500 = Jsonl(path=str(real_data / "math500"), prompt="problem", answer="answer")("test")
    assert all(verdict.correct for verdict in math.many([(f"\\boxed{{{task.answer}}}", task) for task in math500]))
    amc = Jsonl(path=str(real_data / "amc23"), prompt="problem", answer="answer")("test")
    assert all(math(f"#### {float(task.answer):.0f}", task).correct for task in amc)


def test_answers_of_other_problems_are_wrong(real_data: Path, math: Math) -> None:
    tasks = Jsonl(path=str(real_data / "math500"), prompt="problem", answer="answer")("test")
    pairs = [(f"\\boxed{{{other.answer}}}", task) for task, other in zip(tasks, tasks[1:] + tasks[:1], strict=True)]
    accepted = [
        (text, task.answer) for (text, task), verdict in zip(pairs, math.many(pairs), strict=True) if verdict.correct
    ]
    print("neighbours' answers that are accepted:", accepted)
    assert all(
        re.sub(r"[,\\!]", "", text) == re.sub(r"[,\\!]", "", f"\\boxed{{{answer}}}") for text, answer in accepted
    )


def test_llada_rollouts_on_gsm8k(rollouts: list[dict[str, Any]], math: Math) -> None:
    pairs = pairs_of(rollouts, "gsm8k")
    started = time.perf_counter()
    verdicts = math.many(pairs)
    seconds = time.perf_counter() - started
    share = sum(verdict.correct for verdict in verdicts) / len(verdicts)
    notes = Counter(verdict.note for verdict in verdicts)
    print(f"LLaDA-8B-Instruct, GSM8K: {share:.3f} of {len(pairs)} correct, notes {dict(notes)}, {seconds:.2f} s")
    assert len(pairs) == 1_767
    assert share == pytest.approx(0.747, abs=0.003)
    assert set(notes) == {"", "no-answer"}
    assert notes["no-answer"] < 30


def test_llada_rollouts_on_math500(rollouts: list[dict[str, Any]], math: Math) -> None:
    pairs = pairs_of(rollouts, "math500")
    verdicts = math.many(pairs)
    share = sum(verdict.correct for verdict in verdicts) / len(verdicts)
    print(
        f"LLaDA-8B-Instruct, MATH500: {share:.3f} of {len(pairs)} correct, notes {dict(Counter(v.note for v in verdicts))}"
    )
    assert share == pytest.approx(0.336, abs=0.005)
    assert sum(verdict.note in ("timeout", "memory", "error") for verdict in verdicts) == 0


@pytest.mark.parametrize("task", ["gsm8k", "math500"])
def test_agreement_with_plain_math_verify(rollouts: list[dict[str, Any]], math: Math, task: str) -> None:
    """On a tenth of the rollouts: where the two differ, math-verify read no statement of the answer, or missed the spelling."""
    from math_verify import parse, verify

    logging.getLogger("math_verify").setLevel(logging.ERROR)
    pairs = pairs_of(rollouts, task)[::10]
    ours = math.many(pairs)
    plain = [verify(parse(f"\\boxed{{{problem.answer}}}"), parse(text)) for text, problem in pairs]
    differ = [
        (mine, problem.answer)
        for mine, theirs, (_, problem) in zip(ours, plain, pairs, strict=True)
        if mine.correct != theirs
    ]
    print(
        f"{task}: {len(differ)} of {len(pairs)} verdicts differ: {[(mine.answer, mine.correct, gold) for mine, gold in differ]}"
    )
    assert len(differ) < len(pairs) * 0.04
    for mine, gold in differ:
        if mine.correct:  # exact arithmetic is on our side
            given, known = read_number(mine.answer or ""), read_number(gold)
            assert given is not None
            assert known is not None
            assert given.value == known.value
        else:
            assert mine.note == "no-answer"


def test_rollouts_of_puzzles_never_crash_a_verifier(rollouts: list[dict[str, Any]], math: Math) -> None:
    for task in ("countdown", "sudoku"):
        verdicts = math.many(pairs_of(rollouts, task)[::4])
        assert not any(verdict.note in ("timeout", "memory") for verdict in verdicts)
