"""The model keeps the promises of its kind, and its reach grows with its layers."""

from __future__ import annotations

import torch

from igpo_cli.templates.model import Mine
from igpo_sampling.testing import check_model


def test_keeps_the_promises_of_models() -> None:
    for vocabulary in (None, ("a", "b", "c", "d")):
        check_model(Mine(width=16, layers=3), vocabulary)


def test_each_layer_doubles_the_reach() -> None:
    loaded = Mine(width=16, layers=3)(vocabulary=("a", "b"))
    tokens, attention = torch.zeros(1, 20, dtype=torch.long), torch.ones(1, 20, dtype=torch.bool)
    other = tokens.clone()
    other[0, 10] = 1
    with torch.no_grad():
        logits, changed = (loaded.denoiser(canvas, attention, torch.arange(20)) for canvas in (tokens, other))
    reached = (logits != changed).any(1).nonzero().flatten().tolist()
    assert reached == list(range(10 - 7, 10 + 8))  # 1 + 2 + 4 to either side
