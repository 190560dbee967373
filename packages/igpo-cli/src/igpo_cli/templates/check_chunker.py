"""The chunker keeps the promises of its kind, and its parts are equal."""

from __future__ import annotations

from random import Random

import torch

from igpo_cli.templates.chunker import Mine
from igpo_rl import Problem
from igpo_rl.testing import check_chunker


def test_keeps_the_promises_of_chunkers() -> None:
    for parts in (1, 4, 100):
        check_chunker(Mine(parts=parts))


def test_the_answer_stands_between_two_stretches() -> None:
    hintable = torch.tensor([True] * 5 + [False] * 2 + [True] * 2)
    problem = Problem(key="p", prompt=torch.tensor([0]), trace=torch.arange(9), hintable=hintable)
    assert Mine(parts=2)(problem, Random(0)) == [(0, 2), (2, 5), (7, 8), (8, 9)]
