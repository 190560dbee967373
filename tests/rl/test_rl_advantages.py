from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from igpo_rl.advantages import advantages, has_signal


@given(
    st.lists(st.floats(-3, 3, width=32), min_size=4, max_size=32).map(lambda values: values[: len(values) // 4 * 4]),
    st.booleans(),
)
def test_advantages_of_a_group_sum_to_zero(rewards, std):
    centred = advantages(torch.tensor(rewards), 4, std=std).view(-1, 4)
    assert centred.sum(1).abs().max() < 1e-4


def test_after_replacement_with_rate_q_they_are_one_minus_q_and_minus_q():
    for correct in range(1, 8):
        q = correct / 8
        reward = torch.tensor([0.0] * (8 - correct) + [1.0] * correct)
        assert advantages(reward, 8).tolist() == [-q] * (8 - correct) + [1 - q] * correct


def test_equal_rewards_give_exactly_zero_whatever_the_rounding():
    reward = torch.full((7,), 0.1)
    assert (reward - reward.mean() != 0).any()  # the plain formula leaves a residue
    assert (advantages(reward, 7) == 0).all()
    assert (advantages(reward, 7, std=True) == 0).all()
    assert not has_signal(reward, 7).any()


def test_signal_is_a_matter_of_the_group_alone():
    reward = torch.tensor([0.0, 0.0, 1.0, 1.0, 0.0, 1.0])
    assert has_signal(reward, 2).tolist() == [False] * 4 + [True] * 2


def test_std_scales_to_unit_deviation():
    scaled = advantages(torch.tensor([0.0, 0.0, 0.0, 1.0]), 4, std=True)
    assert torch.allclose(scaled.std(correction=0), torch.tensor(1.0), atol=1e-5)
