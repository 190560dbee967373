"""The verifier keeps the promises of its kind, and pays for words in their places."""

from __future__ import annotations

from igpo_cli.templates.verifier import Mine
from igpo_data import Task
from igpo_data.testing import check_verifier

TASK = Task(key="1", prompt="Sort b d a c", answer="a b c d")


def test_keeps_the_promises_of_verifiers() -> None:
    check_verifier(Mine(), TASK, right=["a b c d", "first a, then #### a b c d"], wrong=["a b c", "d c b a", "abcd"])


def test_words_in_their_places_earn_a_part() -> None:
    for completion, reward in (("a b c d", 1.0), ("a x c d", 0.375), ("c d", 0.25), ("x", 0.0)):
        assert Mine(partial=0.5)(completion, TASK).reward == reward
