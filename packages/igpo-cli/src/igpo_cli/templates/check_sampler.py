"""The sampler keeps the promises of its kind, and speeds up."""

from __future__ import annotations

import torch

from igpo_cli.templates.sampler import Mine
from igpo_sampling import Canvas
from igpo_sampling.testing import TableDenoiser, check_sampler


def test_keeps_the_promises_of_samplers() -> None:
    for growth in (1.0, 1.5, 1e9):
        check_sampler(Mine(growth=growth, block=4, temperature=1.0))


def test_commits_more_and_more() -> None:
    canvas = Canvas.blank([torch.tensor([0])], 15, mask_id=8, pad_id=7)
    for growth, committed in ((1.0, [1] * 15), (2.0, [1, 2, 4, 8])):
        sample = Mine(growth=growth, block=15)(TableDenoiser(9), canvas, torch.tensor([1]), mask_id=8, eos_id=7)
        assert sample.order[0].bincount().tolist() == committed
