from __future__ import annotations

import itertools

import pytest
import torch
from rl_tiny import MASK, TinyDenoiser

from igpo_rl.estimators import MeanField, RandomMask
from igpo_rl.scores import token_scores
from igpo_rl.testing import random_rollouts
from igpo_rl.views import by_row, cut, same_plan, scored_by_row


def view_of(estimator, rollouts, first=0):
    return estimator(rollouts, torch.zeros(len(rollouts)), torch.arange(first, first + len(rollouts)), MASK)


def test_mean_field_feeds_one_fully_masked_input_a_group():
    rollouts = random_rollouts(vocabulary=MASK)
    view = view_of(MeanField(), rollouts)
    assert view.noised.shape == (3, 6 + 11)
    assert (view.noised[:, 6:] == MASK).all()
    assert torch.equal(view.noised[view.source][:, :6], rollouts.prompt)
    assert torch.equal(view.scored, rollouts.valid)
    assert same_plan(view, view_of(MeanField(), rollouts, first=99))  # every update's view is the same one


def test_prompt_masks_are_shared_in_a_group_and_fresh_every_update():
    rollouts = random_rollouts(vocabulary=MASK, groups=40)
    one, other = (view_of(MeanField(prompt_mask=0.25), rollouts, first) for first in (0, 1000))
    assert len(one.noised) == 40
    assert not same_plan(one, other)
    masked = (one.noised[:, :6] == MASK)[rollouts.prompt_valid[::4]]
    assert abs(masked.float().mean() - 0.25) < 0.08
    assert not (one.noised[:, :6] == MASK)[~rollouts.prompt_valid[::4]].any()


def test_random_mask_scores_what_it_masks_and_never_nothing():
    rollouts = random_rollouts(vocabulary=MASK, groups=50)
    view = view_of(RandomMask(low=0.0, high=0.1), rollouts)
    assert view.scored.any(1).all()
    view = view_of(RandomMask(low=0.5, high=0.5), rollouts)
    masked = view.noised[:, 6:] == MASK
    assert torch.equal(view.scored, masked & rollouts.valid)
    assert abs(masked.float().mean() - 0.5) < 0.04
    everything = view_of(RandomMask(low=1.0, high=1.0), rollouts)
    assert (everything.noised[:, 6:] == MASK).all()


def test_random_mask_draws_every_mask_as_often_as_its_probability_says():
    """L = 3, t = 0.5: 8 masks of probability 1/8, the empty one exchanged for the three single ones."""
    rollouts = random_rollouts(vocabulary=MASK, groups=1, size=4, width=3)
    rollouts = rollouts.take(torch.full((4000,), 3))  # the row that is valid everywhere
    view = view_of(RandomMask(low=0.5, high=0.5), rollouts)
    counts = dict.fromkeys(itertools.product([False, True], repeat=3), 0)
    for mask in view.scored.tolist():
        counts[tuple(mask)] += 1
    for mask, count in counts.items():
        expected = 0 if sum(mask) == 0 else 4000 * (1 / 8 + (1 / 24 if sum(mask) == 1 else 0))
        assert abs(count - expected) < 5 * max(expected, 0.04) ** 0.5


@torch.no_grad()
def test_parts_cut_anywhere_score_the_same():
    rollouts = random_rollouts(vocabulary=MASK)
    denoiser = TinyDenoiser().double()
    for estimator in (MeanField(prompt_mask=0.3), RandomMask()):
        view = view_of(estimator, rollouts)
        whole = by_row(view, token_scores(denoiser, view, rollouts.completion).logp, 12)
        for size in (1, 3, 5, 12):
            parts = []
            for first in range(0, 12, size):
                rows = slice(first, min(12, first + size))
                part = cut(view, rows.start, rows.stop)
                logp = token_scores(denoiser, part, rollouts.completion[rows]).logp
                parts.append(by_row(part, logp, rows.stop - rows.start))
            assert torch.allclose(torch.cat(parts), whole, atol=1e-12)


def test_by_row_weighs_and_sums_the_scorings_of_a_row():
    rollouts = random_rollouts(vocabulary=MASK, groups=1, size=2, width=3)
    view = view_of(MeanField(), rollouts)
    twice = type(view)(
        noised=view.noised,
        attention=view.attention,
        source=torch.zeros(3, dtype=torch.long),
        row=torch.tensor([0, 0, 1]),
        scored=torch.tensor([[1, 1, 0], [0, 1, 1], [1, 0, 0]]).bool(),
        weight=torch.tensor([[1.0, 0.5, 0], [0, 0.5, 1.0], [2.0, 0, 0]]),
    )
    values = torch.tensor([[1.0, 2.0, 0.0], [0.0, 4.0, 5.0], [3.0, 0.0, 0.0]])
    assert by_row(twice, values, 2).tolist() == [[1.0, 3.0, 5.0], [6.0, 0.0, 0.0]]
    assert scored_by_row(twice, 2).tolist() == [[1, 2, 1], [1, 0, 0]]


def test_bounds_are_checked():
    with pytest.raises(ValueError, match=r"low = 0\.9 is above high = 0\.5"):
        RandomMask(low=0.9, high=0.5)
