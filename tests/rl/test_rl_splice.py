from __future__ import annotations

import math

import pytest
import torch
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from igpo_rl.splice import find_stuck, splice, stack
from igpo_rl.testing import random_rollouts

flags = st.lists(st.booleans(), min_size=12, max_size=12)


def rollouts(correct, verifiable=None, seed: int = 0):
    made = random_rollouts(seed=seed)
    correct = torch.tensor(correct, dtype=torch.bool)
    known = made.verifiable if verifiable is None else torch.tensor(verifiable, dtype=torch.bool)
    return evolve(made, correct=correct, reward=correct.float(), verifiable=known, group=made.group, hinted=None)


def rows_equal(one, row: int, other, other_row: int) -> bool:
    """All columns but the group number."""
    left, right = one.take(torch.tensor([row])).columns(), other.take(torch.tensor([other_row])).columns()
    return all(
        torch.equal(left[name], right[name]) if isinstance(left[name], torch.Tensor) else left[name] == right[name]
        for name in right
        if name != "group"
    )


@given(flags, flags, flags, st.floats(0, 1))
def test_splicing_replaces_the_last_originals_of_stuck_groups_and_nothing_else(
    correct, verifiable, inpainted_correct, replace
):
    originals, size = rollouts(correct, verifiable), 4
    stuck = find_stuck(originals, size).nonzero().flatten().tolist()
    rows = torch.tensor([index * size + row for index in range(len(stuck)) for row in range(size)], dtype=torch.long)
    inpainted = rollouts(inpainted_correct, seed=1).take(rows)
    batch = splice(originals, inpainted, stuck, size, replace)
    assert torch.equal(batch.group, originals.group)
    for group in range(3):
        first = group * size
        expected = [(originals, first + row) for row in range(size)]
        if group in stuck:
            place = stuck.index(group) * size
            good = [place + row for row in range(size) if inpainted.correct[place + row]][
                : math.floor(replace * size + 1e-9)
            ]
            expected[size - len(good) :] = [(inpainted, row) for row in good]
        else:
            assert not batch.hinted[first : first + size].any()
        for row, (source, source_row) in enumerate(expected):
            assert rows_equal(batch, first + row, source, source_row)
            assert bool(batch.hinted[first + row]) is (source is inpainted)


def test_one_correct_or_one_unverifiable_row_keeps_a_group_from_being_stuck():
    correct = [False] * 4 + [False, True, False, False] + [False] * 4
    verifiable = [True] * 8 + [True, True, False, True]
    assert find_stuck(rollouts(correct, verifiable), 4).tolist() == [True, False, False]


def test_a_trigger_that_looks_at_the_batch_misses_stuck_groups():
    """The published trigger fires only where the whole device batch is wrong."""
    originals = rollouts([False] * 4 + [True] * 8)
    faulty = (~originals.correct.any()).expand(3)
    assert faulty.tolist() != [True, False, False]
    assert find_stuck(originals, 4).tolist() == [True, False, False]


def test_unequal_prompt_widths_are_padded_on_the_left():
    one, other = rollouts([True] * 12), rollouts([False] * 12, seed=1)
    narrow = evolve(other, prompt=other.prompt[:, 2:], prompt_valid=other.prompt_valid[:, 2:])
    for first, second in ((one, narrow), (narrow, one)):
        both = stack(first, second)
        assert both.prompt.shape == (24, 6)
        part = both.take(torch.arange(12, 24) if second is narrow else torch.arange(12))
        assert torch.equal(part.prompt[:, 2:], narrow.prompt)
        assert not part.prompt_valid[:, :2].any()


def test_metrics_of_both_plays_are_added():
    one, other = rollouts([True] * 12), rollouts([True] * 12)
    both = stack(evolve(one, metrics={"time/verify": 1.0, "a": 2.0}), evolve(other, metrics={"time/verify": 0.5}))
    assert both.metrics == {"time/verify": 1.5, "a": 2.0}
    none = stack(evolve(one, metrics={"time/verify": 1.0}), other.take(torch.zeros(0, dtype=torch.long)))
    assert len(none) == 12


def test_plays_must_fill_the_same_columns():
    one = rollouts([True] * 12)
    with pytest.raises(ValueError, match="texts"):
        stack(one, evolve(one, texts=("a",) * 12))
