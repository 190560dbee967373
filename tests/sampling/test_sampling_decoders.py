"""The decoder families against a slow reference and against the classes of transformers, and their traps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from sampling_decoders import publish, reference
from torch import Tensor

from igpo_sampling import Bidirectional, Block, Dream, LLaDA, Loaded

PLUGINS: dict[str, Any] = {
    "dream": (Dream, {"shift": True}),
    "sdar": (Block, {"block": 4}),
    "fast-dllm": (Block, {"block": 4, "shift": True}),
    "a2d": (Bidirectional, {}),
    "moe": (LLaDA, {}),
}


def loaded(folder: Path, family: str, **options: Any) -> Loaded:
    dtype = options.pop("dtype", None)
    return PLUGINS[family][0](path=str(publish(folder, family)), **options)(dtype=dtype)


def inputs() -> tuple[Tensor, Tensor]:
    """Three rows, one with 7 pads, one with 2: neither a multiple of a block."""
    tokens = torch.randint(40, (3, 17), generator=torch.Generator().manual_seed(1))
    attention = torch.ones_like(tokens, dtype=torch.bool)
    attention[1, :7] = False
    attention[2, :2] = False
    return tokens, attention


def slow(folder: Path, tokens: Tensor, attention: Tensor, **options: Any) -> Tensor:
    """Row after row without its pads; the order of `attention`'s True cells."""
    return torch.cat([reference(folder, row[mask], **options) for row, mask in zip(tokens, attention, strict=True)])


def close(first: Tensor, second: Tensor, tolerance: float = 1e-5) -> bool:
    return torch.allclose(first.double(), second.double(), rtol=0, atol=tolerance)


@pytest.mark.parametrize("family", PLUGINS)
def test_logits_are_those_of_the_slow_reference(tmp_path, family):
    model = loaded(tmp_path, family)
    tokens, attention = inputs()
    where = attention.flatten().nonzero()[:, 0]
    expected = slow(tmp_path, tokens, attention, **PLUGINS[family][1])
    with torch.no_grad():
        assert close(model.denoiser(tokens, attention, where), expected)
        every = torch.ones_like(attention)
        expected = slow(tmp_path, tokens[:1], every[:1], **PLUGINS[family][1])
        assert close(model.denoiser(tokens[:1], every[:1], torch.arange(17)), expected), (
            "nothing hidden: no mask at all"
        )
    causal = slow(tmp_path, tokens[:1], every[:1], block=1)
    assert not close(expected, causal, 1e-2), "the test can fail"
