"""The options that samplers share, through real calls: what is drawn, how often, and what guidance and EOS rules do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_sampling_noise import surprise

from igpo_sampling import Canvas, LLaDASampler

# Temperature 1: the softmax ---------------------------------------------------------------------------------------


class Fixed(torch.nn.Module):
    """The same logits (V,) at every place, in their own dtype."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("logits", logits)

    def forward(self, tokens: Any, attention: Any, where: Any, read: Any) -> Any:
        return read(lambda hidden: self.logits.repeat(len(hidden), 1), where[:, None])


def drawn(logits: torch.Tensor, rows: int, mask_id: int, **options: Any) -> torch.Tensor:
    """Counts (V,) of the tokens that a sampler draws in `rows` rows of one blank each."""
    blank = torch.full((rows, 1), mask_id)
    canvas = Canvas(blank, torch.ones_like(blank, dtype=torch.bool), torch.zeros_like(blank, dtype=torch.bool), 1)
    sampler = LLaDASampler(block=1, max_rows=rows, **options)
    result = sampler(Fixed(logits), canvas, torch.arange(rows), mask_id=mask_id, eos_id=0)
    return torch.bincount(result.completion[:, 0], minlength=len(logits))


def without_mask(logits: torch.Tensor, mask_id: int) -> torch.Tensor:
    """Probabilities (V,) in float64."""
    logits = logits.double().clone()
    logits[mask_id] = -torch.inf
    return logits.softmax(0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_frequencies_at_temperature_1_are_the_softmax_over_4096_tokens(dtype):
    """Chi-square of 30,000 draws; the same statistic rejects Gumbel noise in bfloat16 and a temperature that is 10 % off."""
    V, rows, mask_id = 4096, 30_000, 4000
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(V, generator=generator)
    logits[7], logits[mask_id] = 8.0, 9.0  # about a third, and a mask that would be drawn as often
    logits = logits.to(dtype)
    shares = without_mask(logits, mask_id)
    assert abs(surprise(drawn(logits, rows, mask_id, temperature=1.0), shares)) < 4
    assert surprise(drawn(logits, rows, mask_id, temperature=1.1), shares) > 10

    coarse = logits.bfloat16()
    coarse[mask_id] = -1e9
    counts = torch.zeros(V, dtype=torch.long)
    for _ in range(rows // 1000):
        u = torch.rand(1000, V, generator=generator).bfloat16().clamp(1 / 512, 255 / 256)  # no infinities
        counts += torch.bincount((coarse - (-u.log()).log()).argmax(1), minlength=V)
    assert surprise(counts, shares) > 10
