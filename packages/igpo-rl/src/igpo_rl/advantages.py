"""How much better a row is than its group."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def advantages(reward: Tensor, group: int, *, std: bool = False) -> Tensor:
    """(B,) rewards of adjacent groups -> r - mean(r) within the group (Dr. GRPO, arXiv 2503.20783, section 3).

    `std` divides by the group's standard deviation as well (GRPO, arXiv 2402.03300). Exactly 0 in a group of equal
    rewards, whatever rounding does to their mean.
    """
    table = reward.view(-1, group)
    centred = table - table.mean(1, keepdim=True)
    if std:
        centred = centred / (table.std(1, keepdim=True, correction=0) + 1e-6)
    return centred.where(_differ(table), 0.0).flatten()


def has_signal(reward: Tensor, group: int) -> Tensor:
    """(B,) bool: True for the rows of groups whose rewards are not all equal."""
    return _differ(reward.view(-1, group)).expand(-1, group).flatten()


def _differ(table: Tensor) -> Tensor:
    return (table != table[:, :1]).any(1, keepdim=True)
