"""The verifier counts coins, whatever stands between them, and never raises."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from igpo_coin.verifier import Change
from igpo_data.task import Task
from igpo_data.testing import check_verifier

FORTY_ONE = Task(key="41", prompt="Pay 41 cents.", answer="41")


def test_keeps_the_promises_of_verifiers() -> None:
    check_verifier(Change(), FORTY_ONE, right=["25 + 10 + 5 + 1", "25, 5, 5, 5, 1"], wrong=["25 + 10 + 5", "40 + 1"])


@pytest.mark.parametrize(
    ("completion", "reward", "correct", "note"),
    [
        ("25 + 10 + 5 + 1", 1.0, True, ""),
        ("10, 10, 10, 10 and 1", 0.8, True, ""),
        ("25 + 10 + 5", 0.0, False, ""),
        ("40 + 1", 0.0, False, "no-coin"),
        ("a quarter", 0.0, False, "no-answer"),
        ("", 0.0, False, "no-answer"),
    ],
)
def test_examples(completion: str, reward: float, correct: bool, note: str) -> None:
    verdict = Change()(completion, FORTY_ONE)
    assert (verdict.reward, verdict.correct, verdict.note) == (reward, correct, note)


@given(st.lists(st.sampled_from([1, 5, 10, 25]), min_size=1, max_size=12))
def test_every_way_to_pay_is_correct_and_none_beats_the_fewest(coins: list[int]) -> None:
    verdict = Change()(" ".join(map(str, coins)), Task(key="k", prompt="p", answer=str(sum(coins))))
    assert verdict.correct
    assert 0 < verdict.reward <= 1


def test_greedy_is_not_the_fewest() -> None:
    assert Change(coins=(1, 3, 4)).fewest(6) == 2  # 3 + 3; taking the largest first gives 4 + 1 + 1


@given(st.text())
def test_hostile_text_gets_a_verdict(text: str) -> None:
    assert Change()(text, FORTY_ONE).reward <= 1


def test_an_answer_that_is_no_amount_is_unverifiable() -> None:
    assert Change()("5", Task(key="k", prompt="p", answer="a lot")).note == "unverifiable"


def test_options_are_checked() -> None:
    with pytest.raises(ValueError, match="below 1"):
        Change(coins=(0, 5))
