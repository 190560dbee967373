"""The estimator keeps the promises of its kind, and scores one window a row."""

from __future__ import annotations

import torch

from igpo_cli.templates.estimator import Mine
from igpo_rl.testing import check_estimator, random_rollouts


def test_keeps_the_promises_of_estimators() -> None:
    for share in (0.1, 0.5, 1.0):
        check_estimator(Mine(share=share))


def test_what_is_scored_lies_side_by_side() -> None:
    rollouts = random_rollouts()
    seeds = torch.arange(len(rollouts))
    view = Mine(share=0.5)(rollouts, torch.zeros(len(rollouts)), seeds, mask_id=9)
    for row, scored in zip(view.row.tolist(), view.scored, strict=True):
        cells = scored.nonzero().flatten()
        assert len(cells) == (int(rollouts.valid[row].sum()) + 1) // 2
        assert int(cells[-1] - cells[0]) == len(cells) - 1
