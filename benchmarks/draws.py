"""Drawing a token, and how sure the model is of it, at 136 positions: kernels alone, from the same float32 logits.

Ours needs one uniform number a position and two sums over the vocabulary; a Gumbel draw needs a number and a logarithm
or two a token of it. All draw from the softmax at temperature 1.2 except the float32 one, whose noise is too coarse to
draw rare tokens. A confidence is the probability of the drawn token.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.harness import Row, compare
from igpo_sampling import commit, noise

NAME = "Draws"
TEMPERATURE = 1.2


def gumbel_of_powers(logits: Tensor, generator: torch.Generator) -> Tensor:
    """As published: float64, exp(logits) / (-log u)^T."""
    uniform = torch.rand(logits.shape, dtype=torch.float64, generator=generator)
    return (logits.double().exp() / (-uniform.log()) ** TEMPERATURE).argmax(1)


def gumbel(logits: Tensor, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
    """The same in logarithms: logits / T - log(-log u)."""
    uniform = torch.rand(logits.shape, dtype=dtype, generator=generator)
    return (logits.to(dtype) / TEMPERATURE - (-uniform.log()).log()).argmax(1)


def run(quick: bool) -> list[Row]:
    positions, vocabulary = (16, 1_000) if quick else (136, 126_464)
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(positions, vocabulary, generator=generator)
    u = torch.rand(positions, generator=generator)
    tokens = noise.draw(logits, u, TEMPERATURE)
    baselines: dict[str, Callable[[], object]] = {
        "Gumbel, float64, as published": lambda: gumbel_of_powers(logits, generator),
        "Gumbel, float64, logarithms": lambda: gumbel(logits, generator, torch.float64),
        "Gumbel, float32": lambda: gumbel(logits, generator, torch.float32),
        "multinomial": lambda: torch.multinomial((logits / TEMPERATURE).softmax(1), 1, generator=generator),
    }
    repeats = 1 if quick else 5
    rows = [
        compare(f"a draw: {name}", lambda: noise.draw(logits, u, TEMPERATURE), baseline, repeats=repeats)
        for name, baseline in baselines.items()
    ]
    rows.append(
        compare(
            "a confidence: float64 softmax",
            lambda: commit.probability(logits, tokens, u),
            lambda: logits.double().softmax(1).gather(1, tokens[:, None]),
            repeats=repeats,
        )
    )
    return rows
