"""Hostile and random text through every verifier: nothing is right, nothing hangs, memory stays bounded, workers live on."""

from __future__ import annotations

import random
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from igpo_data import (
    AllOf,
    Choice,
    Countdown,
    Derivation,
    Exact,
    JsonField,
    Math,
    Numeric,
    ReasoningGym,
    Regex,
    Sudoku,
    Task,
    Verifier,
    Weighted,
    verify,
)
from igpo_data.plugin import igpo_verifiers
from igpo_data.pool import shared_pool
from igpo_data.testing import hostile

NUMBER = "4815162342"
TASK = Task(
    key="t",
    prompt="",
    answer=NUMBER,
    trace=f"so it is #### {NUMBER}",
    meta={"puzzle": "1002031030004023", "numbers": [95, 73, 7], "target": 29},
)
CHEAP: Sequence[Verifier] = (Exact(), Numeric(), JsonField(), Countdown(), Sudoku(), Derivation())
PATTERN = Regex(pattern=r"^(?:a|aa|\w)+#### {answer}!$", timeout=0.2, workers=2)
MATH = Math(timeout=0.2, workers=2)
GYM = ReasoningGym(timeout=1.0, workers=1)
COMBINED: Sequence[Verifier] = (
    AllOf(parts=(Numeric(), PATTERN)),
    Weighted(parts=(Exact(), Numeric(), PATTERN), weights=(1.0, 2.0, 0.5), decide=(0, 1)),
)


def gym_task(name: str) -> Task:
    import reasoning_gym

    state = random.getstate()
    entry = reasoning_gym.create_dataset(name, seed=5, size=1)[0]
    random.setstate(state)
    return Task(key=name, prompt="", answer=entry["answer"], meta={"dataset": name, "entry": entry})


def throw(verifier: Verifier, texts: Sequence[str], task: Task) -> dict[str, int]:
    """Every text; how often each note came. None may be right."""
    verdicts = verify(verifier, [(text, task) for text in texts])
    assert len(verdicts) == len(texts)
    assert [text for text, verdict in zip(texts, verdicts, strict=True) if verdict.correct] == []
    assert [verdict.reward for verdict in verdicts if verdict.reward and not isinstance(verifier, Weighted)] == []
    notes = [verdict.note for verdict in verdicts]
    return {note: notes.count(note) for note in sorted(set(notes))}


def workers_live(verifier: Math | Regex | ReasoningGym, job: str, question: str, value: object) -> None:
    """Each worker that was started answers a plain question."""
    memory = verifier.memory if isinstance(verifier, Math | ReasoningGym) else 1024
    pool = shared_pool(job, verifier.workers, verifier.timeout, memory)  # type: ignore[arg-type]
    started = [worker for worker in pool._workers if worker._process is not None]
    assert started
    for worker in started:
        assert worker._process is not None
        assert worker._process.poll() is None
        assert worker.ask(question).value == value
    verifier.close()


def test_every_verifier_has_its_hostile_test() -> None:
    tested = {*CHEAP, *COMBINED, PATTERN, MATH, GYM, Choice()}
    names = {target.split(":")[1] for target in igpo_verifiers().values()}
    assert names - {type(verifier).__name__ for verifier in tested} <= {"Program"}  # runs code: has drills of its own


def test_the_texts_are_deterministic_and_varied() -> None:
    texts = list(hostile(2_000, NUMBER))
    assert texts == list(hostile(2_000, NUMBER))
    assert texts != list(hostile(2_000, NUMBER, seed=1))
    assert len(set(texts)) > 1_300
    assert max(map(len, texts)) > 100_000
    assert all(
        any(piece in text for text in texts)
        for piece in ("__import__", "\x00", "9^{9^{", "100000000!", "\ud800", "sum_", "((((", NUMBER)
    )


@pytest.mark.parametrize("verifier", CHEAP, ids=lambda verifier: type(verifier).__name__)
def test_hostile_text_in_process(verifier: Verifier) -> None:
    started = time.process_time()
    throw(verifier, list(hostile(1_000, NUMBER)), TASK)
    assert time.process_time() - started < 10


def test_hostile_text_and_choice() -> None:
    throw(
        Choice(),
        list(hostile(1_000, "C")),
        Task(key="t", prompt="", answer="C", meta={"choices": ["1", "2", "3", "4"]}),
    )


def test_hostile_text_in_workers() -> None:
    """A small part of the slow test below."""
    notes = throw(MATH, list(hostile(60, NUMBER, seed=1)), TASK)
    assert set(notes) <= {"", "no-answer", "timeout", "memory", "too-long", "error"}
    workers_live(MATH, "algebra", '["x+1", "1+x"]', True)
    throw(PATTERN, list(hostile(60, NUMBER, seed=1)), TASK)
    workers_live(PATTERN, "search", '["a+", "baac"]', [1, 3])


@pytest.mark.slow
@pytest.mark.timeout(3_600)
def test_ten_thousand_hostile_texts_through_every_verifier(tmp_path: Path) -> None:
    texts = list(hostile(10_000, NUMBER))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for verifier in (*CHEAP, MATH, PATTERN, *COMBINED):
        started = time.perf_counter()
        notes = throw(verifier, texts, TASK)
        print(f"{type(verifier).__name__}: {time.perf_counter() - started:.1f} s, notes {notes}")
    throw(Choice(), list(hostile(10_000, "C")), Task(key="t", prompt="", answer="C"))
    workers_live(MATH, "algebra", '["x+1", "1+x"]', True)
    workers_live(PATTERN, "search", '["a+", "baac"]', [1, 3])
    for name in ("gsm_symbolic", "spiral_matrix", "countdown", "kakurasu", "game_of_life_halting"):
        started = time.perf_counter()
        task = gym_task(name)
        notes = throw(GYM, list(hostile(2_000, task.answer)), task)
        print(f"ReasoningGym on {name}: {time.perf_counter() - started:.1f} s, notes {notes}")
    GYM.close()
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"memory: {grown:.0f} MB more in this process at its peak, {largest:.0f} MB in the largest worker")
    if sys.platform == "linux":
        assert grown < 500
        assert largest < 2_048
