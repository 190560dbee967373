"""Answer pairs written by hand: no two different ones are taken for equal, and what is missed is what the docs say."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from evidence.verification import PAGE, Pair, judge_pairs, pairs_report, read_pairs

from igpo_data import Math
from igpo_data.answers import equal

PAIRS = read_pairs()


def test_the_table_is_large_and_varied() -> None:
    counts = Counter(pair.truth for pair in PAIRS)
    assert set(counts) == {"equal", "alike", "unequal", "malformed"}
    assert len(PAIRS) >= 300
    assert counts["alike"] >= 80
    assert len({(pair.reference, pair.answer) for pair in PAIRS}) == len(PAIRS)
    assert len({pair.kind for pair in PAIRS}) > 30


def test_no_false_positive_and_the_page_lists_every_false_negative(math: Math) -> None:
    verdicts = judge_pairs(math, PAIRS)
    judged = list(zip(PAIRS, verdicts, strict=True))
    assert [pair for pair, verdict in judged if verdict.correct and pair.truth != "equal"] == []
    assert {verdict.note for verdict in verdicts} <= {"", "no-answer"}
    missed = [pair for pair, verdict in judged if not verdict.correct and pair.truth == "equal"]
    assert len(missed) < 0.08 * sum(pair.truth == "equal" for pair in PAIRS)
    assert pairs_report(math) in PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "pair",
    [pair for pair in PAIRS if pair.truth in ("alike", "unequal")],
    ids=lambda pair: f"{pair.reference}~{pair.answer}",
)
def test_what_differs_is_never_equal_in_process_whichever_is_the_reference(pair: Pair) -> None:
    assert not equal(pair.reference, pair.answer)
    assert not equal(pair.answer, pair.reference)


def test_the_page_names_the_table() -> None:
    assert Path("tests/data/answer_pairs.tsv").name in PAGE.read_text(encoding="utf-8")
