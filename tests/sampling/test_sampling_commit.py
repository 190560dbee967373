"""How many blanks a step commits, and which."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from igpo_sampling.commit import chance, floor_share, probability, top

canvases = st.integers(1, 4).flatmap(
    lambda rows: st.integers(1, 12).flatmap(
        lambda width: st.lists(st.lists(st.booleans(), min_size=width, max_size=width), min_size=rows, max_size=rows)
    )
)


def by_hand(blank: list[bool], steps: int, block: int) -> list[int]:
    """The published schedule (get_num_transfer_tokens of LLaDA), for one row, with its zeros left out."""
    starts = range(0, len(blank), block)
    quota = []
    for number, start in enumerate(starts):
        share = max(1, steps // len(starts) + (number < steps % len(starts)))
        count = sum(blank[start : start + block])
        quota += [count // share + (step < count % share) for step in range(share)]
    return [number for number in quota if number]


@given(canvases, st.integers(1, 30), st.integers(1, 14))
def test_floor_share_is_the_published_schedule_without_empty_steps(cells, steps, block):
    quota = floor_share(torch.tensor(cells), steps, block)
    for row, blank in zip(quota.tolist(), cells, strict=True):
        expected = by_hand(blank, steps, block)
        assert row[: len(expected)] == expected
        assert not any(row[len(expected) :])


def published(width: int, steps: int, block: int) -> list[int]:
    """Trap 4: what the published code does about steps, assertions included."""
    assert width % block == 0
    assert steps % (width // block) == 0
    return by_hand([True] * width, steps, block)


@pytest.mark.parametrize(("width", "steps", "block"), [(12, 5, 4), (13, 6, 4), (12, 1, 4), (12, 40, 12)])
def test_any_number_of_steps_fills_any_number_of_blanks(width, steps, block):
    quota = floor_share(torch.ones(1, width, dtype=torch.bool), steps, block)
    blocks = -(-width // block)
    assert quota.sum() == width
    assert (quota > 0).sum() == min(max(steps, blocks), width)
    if steps != 40:
        with pytest.raises(AssertionError):
            published(width, steps, block)


@given(st.data())
def test_top_takes_the_surest_of_each_row_and_ties_go_to_the_lower_index(data):
    rows, width = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 9))
    values = st.sampled_from([-float("inf"), 0.0, 0.25, 0.5, 1.0])
    confidence = [data.draw(st.lists(values, min_size=width, max_size=width)) for _ in range(rows)]
    count = data.draw(st.lists(st.integers(0, width + 2), min_size=rows, max_size=rows))
    chosen = top(torch.tensor(confidence), torch.tensor(count))
    for row in range(rows):
        open_ = [column for column in range(width) if confidence[row][column] > -float("inf")]
        best = sorted(open_, key=lambda column: (-confidence[row][column], column))[: count[row]]
        assert chosen[row].nonzero()[:, 0].tolist() == sorted(best)


def test_ties_go_to_the_lower_index_in_long_rows_too():
    """Short ones are sorted stably by any algorithm."""
    assert top(torch.zeros(1, 300), torch.tensor([5])).nonzero()[:, 1].tolist() == [0, 1, 2, 3, 4]


def test_a_common_top_k_writes_over_given_tokens():
    """Trap 11. Row 1 has one blank left while row 0 has four: a count for the batch overruns it."""
    blank = torch.tensor([[True, True, True, True], [False, True, False, False]])
    confidence = torch.where(blank, 0.5, -torch.inf)
    count = torch.tensor([2, 1])

    def faulty() -> torch.Tensor:
        common = int(count.max())
        return torch.zeros_like(blank).scatter(1, confidence.topk(common, 1).indices, True)

    assert not (top(confidence, count) & ~blank).any()
    assert not (top(confidence, torch.tensor([4, 4])) & ~blank).any(), "nor when asked for too many"
    with pytest.raises(AssertionError):
        assert not (faulty() & ~blank).any()


def test_confidences():
    logits = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]])
    tokens, u = torch.tensor([2, 0]), torch.tensor([0.1, 0.9])
    assert torch.allclose(probability(logits, tokens, u), logits.softmax(1)[[0, 1], tokens])
    assert torch.equal(chance(logits, tokens, u), u)
