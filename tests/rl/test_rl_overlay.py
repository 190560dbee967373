from __future__ import annotations

import pytest
import torch
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from igpo_rl.overlay import check_shown, leaked, place, values_seen, within
from igpo_rl.records import Problem
from igpo_rl.testing import random_rollouts


def problem(hintable: list[bool], value: list[bool] | None = None) -> Problem:
    length = len(hintable)
    return Problem(
        key="p",
        prompt=torch.tensor([1]),
        trace=torch.arange(100, 100 + length),
        hintable=torch.tensor(hintable, dtype=torch.bool),
        answer_value=torch.tensor(value if value is not None else [False] * length, dtype=torch.bool),
    )


@given(st.integers(0, 20), st.integers(1, 20), st.data())
def test_trace_token_i_stands_at_slot_i_and_nothing_else_is_shown(length, width, data):
    chunks, start = [], 0
    while start < length:
        end = min(length, start + data.draw(st.integers(1, 5)))
        chunks.append((start, end))
        start = end + data.draw(st.integers(0, 2))  # gaps
    shown = torch.tensor([[data.draw(st.booleans()) for _ in chunks] for _ in range(3)], dtype=torch.bool).view(3, -1)
    overlay = place(problem([True] * length), chunks, shown, width)
    for row in range(3):
        visible = {
            token for index, (a, b) in enumerate(chunks) if shown[row, index] for token in range(a, b) if token < width
        }
        assert overlay[row].tolist() == [100 + slot if slot in visible else -1 for slot in range(width)]


def test_chunks_wholly_beyond_the_width_do_not_count():
    assert within([(0, 5), (5, 12), (12, 14)], 10) == [(0, 5), (5, 12)]
    assert within([(0, 5), (5, 10), (10, 14)], 10) == [(0, 5), (5, 10)]


def test_a_problem_without_a_trace_shows_nothing():
    bare = Problem(key="p", prompt=torch.tensor([1]))
    assert (place(bare, [], torch.zeros(2, 0, dtype=torch.bool), 4) == -1).all()


def test_the_leak_counter_looks_at_what_was_shown():
    one = problem([True] * 6 + [False] * 3)
    faulty = place(
        one, [(0, 4), (4, 9)], torch.tensor([[False, True], [True, False]]), 12
    )  # the second chunk covers the answer
    assert leaked(faulty >= 0, [one, one]) == 3
    clean = place(one, [(0, 4), (4, 6)], torch.ones(2, 2, dtype=torch.bool), 12)
    assert leaked(clean >= 0, [one, one]) == 0
    beyond = torch.zeros(1, 12, dtype=torch.bool)
    beyond[0, 10] = True
    assert leaked(beyond, [one]) == 1  # given where there is no trace token at all


def test_values_count_when_a_whole_occurrence_is_shown():
    one = problem([True] * 8, [False, True, True, False, False, True, True, False])
    given = torch.tensor([[1, 1, 1, 0, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0, 1, 0], [0, 0, 0, 0, 1, 1, 1, 1], [0] * 8]).bool()
    assert values_seen(given, [one] * 4) == 2
    assert values_seen(given[:, :6], [one] * 4) == 1  # the second occurrence is cut off


def test_a_player_that_changes_hints_is_refused():
    rollouts = random_rollouts()
    overlay = rollouts.completion.where(rollouts.given, -1)
    check_shown(rollouts, overlay)
    for changed in (
        evolve(rollouts, given=torch.zeros_like(rollouts.given)),
        evolve(rollouts, completion=rollouts.completion + 1),
    ):
        with pytest.raises(ValueError, match="play changed the hints"):
            check_shown(changed, overlay)
