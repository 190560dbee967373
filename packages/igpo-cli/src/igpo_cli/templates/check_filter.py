"""The filter keeps the promises of its kind, and drops what the policy would hardly write."""

from __future__ import annotations

import torch

from igpo_cli.templates.filter import Mine
from igpo_rl.testing import check_filter


def test_keeps_the_promises_of_filters() -> None:
    for least in (0.01, 0.5, 1.0):
        check_filter(Mine(least=least))


def test_keeps_the_likely_hints_alone() -> None:
    logp = torch.tensor([[0.9, 0.2, 0.9, 0.9]]).log()
    hint = torch.tensor([[True, True, False, True]])
    scored = torch.tensor([[True, True, True, False]])
    assert Mine(least=0.5)(torch.zeros_like(logp), logp, hint, scored).tolist() == [[True, False, False, False]]
