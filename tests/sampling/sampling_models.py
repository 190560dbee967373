"""A small real model whose tokens see each other from the start: Tiny's own blocks begin as the identity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from igpo_sampling import Loaded, Tiny

WORDS = [f"w{number}" for number in range(40)]


def mixing(*, vocabulary: Sequence[str] | None = WORDS, dtype: Any = None, seed: int = 0, **options: int) -> Loaded:
    """A model of the given size with random matrices everywhere."""
    loaded = Tiny(**options)(vocabulary=vocabulary, dtype=dtype)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in loaded.denoiser.parameters():
            if weight.ndim == 2:
                weight.normal_(0.0, 0.3, generator=generator)
    return loaded
