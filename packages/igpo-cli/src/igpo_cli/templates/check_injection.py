"""The injection keeps the promises of its kind, and shows the middle."""

from __future__ import annotations

from random import Random

import torch

from igpo_cli.templates.injection import Mine
from igpo_rl import Problem
from igpo_rl.testing import check_injection


def test_keeps_the_promises_of_injections() -> None:
    for share in (0.0, 0.4, 1.0):
        check_injection(Mine(share=share))


def test_shows_the_middle_of_the_chunks() -> None:
    problem = Problem(key="p", prompt=torch.tensor([0]))
    shown = Mine(share=0.5)(problem, [(0, 5), (5, 10), (10, 15), (15, 20)], 3, 0.0, Random(0), {})
    assert shown is not None
    assert shown.tolist() == [[False, True, True, False]] * 3
