"""The loss keeps the promises of its kind, and its weights end at the cap."""

from __future__ import annotations

import math

import torch

from igpo_cli.templates.loss import Mine
from igpo_rl import Totals
from igpo_rl.testing import check_loss


def test_keeps_the_promises_of_losses() -> None:
    for cap in (0.5, 2.0, 1e9):
        check_loss(Mine(cap=cap))


def test_the_gradient_is_the_advantage_times_the_capped_ratio() -> None:
    mask, group, totals = torch.ones(1, 1, dtype=torch.bool), torch.zeros(1, dtype=torch.long), Totals(rows=1, tokens=1)
    for ratio, weight in ((0.5, 0.5), (1.0, 1.0), (7.0, 2.0)):
        old = torch.full((1, 1), -3.0)
        logp = (old + math.log(ratio)).requires_grad_()
        loss = Mine(cap=2.0)(logp, old, torch.tensor([0.5]), mask, None, group, ~mask, totals)
        (gradient,) = torch.autograd.grad(loss.value, logp)
        assert math.isclose(float(gradient), -0.5 * weight, rel_tol=1e-5)
