from __future__ import annotations

import pytest
import torch
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from igpo_rl.overlay import check_shown, leaked, overlay_of, place, place_spaced, values_seen, within, within_spaced
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
    overlay = overlay_of(problem([True] * length).trace, place(chunks, shown, width))
    for row in range(3):
        visible = {
            token for index, (a, b) in enumerate(chunks) if shown[row, index] for token in range(a, b) if token < width
        }
        assert overlay[row].tolist() == [100 + slot if slot in visible else -1 for slot in range(width)]


def test_chunks_wholly_beyond_the_width_do_not_count():
    assert within([(0, 5), (5, 12), (12, 14)], 10) == [(0, 5), (5, 12)]
    assert within([(0, 5), (5, 10), (10, 14)], 10) == [(0, 5), (5, 10)]


def test_a_problem_without_a_trace_shows_nothing():
    assert (overlay_of(None, place([], torch.zeros(2, 0, dtype=torch.bool), 4)) == -1).all()


@pytest.mark.parametrize("spread", [False, True])
def test_the_leak_counter_looks_at_what_was_shown(spread):
    """A chunk of a faulty chunker covers the answer; wherever it is placed, its tokens are counted."""
    one = problem([True] * 6 + [False] * 3)
    chunks, shown = [(0, 4), (4, 9)], torch.tensor([[False, True], [True, False], [True, True]])
    source = place_spaced(chunks, shown, 44, 9) if spread else place(chunks, shown, 44)
    assert leaked(source >= 0, source, [one] * 3) == 6
    clean = place([(0, 4), (4, 6)], torch.ones(3, 2, dtype=torch.bool), 44)
    assert leaked(clean >= 0, clean, [one] * 3) == 0
    beyond = clean[:1] >= 0
    beyond[0, 10] = True
    assert leaked(beyond, clean[:1], [one]) == 1  # given where no trace token was placed
    moved = clean[:1].where(clean[:1] != 0, 7)  # a faulty placement puts an answer token where the first one should be
    assert leaked(moved >= 0, moved, [one]) == 1


def test_values_count_when_a_whole_occurrence_is_shown():
    one = problem([True] * 8, [False, True, True, False, False, True, True, False])
    given = torch.tensor([[1, 1, 1, 0, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0, 1, 0], [0, 0, 0, 0, 1, 1, 1, 1], [0] * 8]).bool()
    source = torch.arange(8).expand(4, 8)
    assert values_seen(given, source, [one] * 4) == 2
    assert values_seen(given[:, :6], source[:, :6], [one] * 4) == 1  # the second occurrence is cut off


def spaced(chunks, width, length, shown=None):
    flags = torch.ones(1, len(chunks), dtype=torch.bool) if shown is None else torch.tensor([shown])
    return place_spaced(chunks, flags, width, length)[0].tolist()


def test_spaced_hints_stand_where_the_public_code_puts_them():
    """Scale (90 - 30) / 40 = 1.5: the first chunk at int(4 x 1.5), the next one int(10 x 1.5) behind the end of that."""
    row = spaced([(4, 10), (20, 26)], 90, 40)
    assert [slot for slot, token in enumerate(row) if token >= 0] == [*range(6, 12), *range(27, 33)]
    assert [token for token in row if token >= 0] == [*range(4, 10), *range(20, 26)]


def test_spaced_gaps_count_between_shown_chunks_and_are_bounded():
    chunks = [(0, 6), (6, 12), (12, 18), (200, 206)]
    assert spaced(chunks, 60, 60, [True, False, True, False])[:18] == [*range(6), *[-1] * 6, *range(12, 18)]
    row = spaced(chunks, 400, 300, [False, False, True, True])  # scale 370 / 300
    first, second = int(12 * 370 / 300), int(12 * 370 / 300) + 6 + 100
    assert row[first] == 12
    assert row[second] == 200


def test_spaced_hints_leave_the_last_slots_free():
    row = spaced([(0, 8), (8, 16), (16, 24)], 50, 24)
    assert row[20:] == [-1] * 30
    assert row[:20] == list(range(20))  # the third chunk is clipped
    assert within_spaced([(0, 8), (8, 16), (16, 24)], 50) == [(0, 8), (8, 16)]  # its part in the cut trace is under 5
    assert within_spaced([(0, 8), (8, 16), (16, 24)], 51) == [(0, 8), (8, 16), (16, 21)]
    with pytest.raises(ValueError, match="leaves 30 slots at the end free, but the completion has 30"):
        within_spaced([(0, 8)], 30)


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
