"""Stuck groups, and how inpainted rows enter them. Both are decided group by group, never by batch or rank."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from attrs import evolve

from igpo_rl import later
from igpo_rl.records import Rollouts

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = later.load("torch")


def find_stuck(rollouts: Rollouts, group: int) -> Tensor:
    """(Q,) bool: True where no row of the group is correct, and every row could be verified at all."""
    return ~rollouts.correct.view(-1, group).any(1) & rollouts.verifiable.view(-1, group).all(1)


def splice(originals: Rollouts, inpainted: Rollouts, groups: Sequence[int], group: int, replace: float) -> Rollouts:
    """The first K correct inpainted rows take the places of the last K originals (IGPO, arXiv 2509.10396, section 3).

    `inpainted` holds `group` rows for each of `groups`; K = min(correct, floor(replace * group)). Sets `hinted`.
    Every other row is the original one, bit by bit.
    """
    most = math.floor(replace * group + 1e-9)
    pick, correct = list(range(len(originals))), inpainted.correct.tolist()
    for place, index in enumerate(groups):
        rows = range(place * group, (place + 1) * group)
        chosen = [len(originals) + row for row in rows if correct[row]][:most]
        pick[(index + 1) * group - len(chosen) : (index + 1) * group] = chosen
    order = torch.tensor(pick, dtype=torch.long, device=originals.completion.device)
    batch = stack(originals, inpainted).take(order)
    return evolve(batch, hinted=order >= len(originals), group=originals.group)


def find_easy(rollouts: Rollouts, group: int) -> Tensor:
    """(Q,) bool: True where every row of the group is correct, so that it has nothing to teach."""
    return rollouts.correct.view(-1, group).all(1)


def substitute(originals: Rollouts, fresh: Rollouts, groups: Sequence[int], group: int) -> Rollouts:
    """`fresh` holds `group` rows for each of `groups`; they take the places of those groups' originals."""
    pick = list(range(len(originals)))
    for place, index in enumerate(groups):
        first = len(originals) + place * group
        pick[index * group : (index + 1) * group] = range(first, first + group)
    order = torch.tensor(pick, dtype=torch.long, device=originals.completion.device)
    return evolve(stack(originals, fresh).take(order), group=originals.group)


def stack(first: Rollouts, second: Rollouts) -> Rollouts:
    """The rows of both; the narrower prompts are padded on the left, metrics that both have are added."""
    width = max(first.prompt.shape[1], second.prompt.shape[1])
    upper, lower = _padded(first, width).columns(), _padded(second, width).columns()
    metrics = {
        **first.metrics,
        **{name: first.metrics.get(name, 0.0) + value for name, value in second.metrics.items()},
    }
    if len(second) == 0:
        return evolve(first, metrics=metrics)
    if upper.keys() != lower.keys():
        raise ValueError(
            f"play filled different columns in its two calls: {sorted(upper.keys() ^ lower.keys())}; fill the same ones"
        )
    rows: dict[str, Any] = {
        name: column + lower[name] if isinstance(column, tuple) else torch.cat([column, lower[name]])
        for name, column in upper.items()
    }
    return evolve(first, **rows, metrics=metrics)


def _padded(rollouts: Rollouts, width: int) -> Rollouts:
    missing = (width - rollouts.prompt.shape[1], 0)
    if not any(missing):
        return rollouts
    return evolve(
        rollouts,
        prompt=torch.nn.functional.pad(rollouts.prompt, missing),
        prompt_valid=torch.nn.functional.pad(rollouts.prompt_valid, missing),
    )
