"""The sampler keeps every promise of samplers, and its coin does what its name says."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from igpo_coin.sampler import CoinSampler
from igpo_sampling import Canvas, Sample
from igpo_sampling.testing import check_sampler

EOS, MASK, WIDTH = 3, 4, 32


def known(*probability: float) -> object:
    """A denoiser that says the same of every cell, whatever stands on the canvas."""
    logits = torch.tensor([*probability, 1e-9]).log()

    def denoiser(tokens: Tensor, attention: Tensor, where: Tensor, read: object = None) -> object:
        return read(lambda hidden: logits.repeat(len(hidden), 1), torch.zeros(len(where), 1))

    return denoiser


def sample(sampler: CoinSampler, denoiser: object, rows: int = 64) -> Sample:
    canvas = Canvas.blank([torch.tensor([0])] * rows, WIDTH, mask_id=MASK, pad_id=EOS)
    return sampler(denoiser, canvas, torch.arange(rows), mask_id=MASK, eos_id=EOS)


@pytest.mark.parametrize("patience", [0.0, 1.0, 8.0])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_keeps_the_promises_of_samplers(patience: float, temperature: float) -> None:
    check_sampler(CoinSampler(patience=patience, temperature=temperature, block=4))


def test_a_blank_is_committed_with_the_probability_of_its_token() -> None:
    first = sample(CoinSampler(temperature=0), known(0.6, 0.2, 0.1, 0.1)).order == 0
    share = first[:, 1:].float().mean()  # without the surest one, which is committed in any case: here the first cell
    assert first[:, 0].all()
    assert share == pytest.approx(0.6, abs=4 * (0.6 * 0.4 / first[:, 1:].numel()) ** 0.5)


def test_patience_trades_forwards_for_certainty() -> None:
    denoiser = known(0.6, 0.2, 0.1, 0.1)
    forwards = [sample(CoinSampler(patience=patience), denoiser).forwards.float().mean() for patience in (0, 1, 4, 99)]
    assert forwards[0] == 1
    assert forwards == sorted(forwards)
    assert forwards[-1] == WIDTH
