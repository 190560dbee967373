"""Which blanks are committed at a step: confidences, and rules that turn them into a choice.

Everything is per row and stays on the device: rows with unequal numbers of blanks are the normal case.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from igpo_sampling.canvas import Canvas


class Confidence(Protocol):
    """How sure the model is of a proposed token; the surest are committed first."""

    def __call__(self, logits: Tensor, tokens: Tensor, u: Tensor) -> Tensor:
        """logits (N, V) at temperature 1, tokens (N,) long, u (N,) uniform numbers of their own -> (N,) float."""
        ...


class Rule(Protocol):
    """Chooses the cells to commit."""

    def __call__(self, confidence: Tensor, rows: Tensor, step: int) -> Tensor:
        """confidence (R, L), -inf where no choice is open; rows (R,) long into the canvas -> (R, L) bool, at least one a row."""
        ...


def probability(logits: Tensor, tokens: Tensor, u: Tensor) -> Tensor:  # noqa: ARG001
    """The token's softmax probability without temperature (low-confidence remasking of LLaDA, 2502.09992)."""
    return (logits.gather(1, tokens[:, None])[:, 0] - logits.logsumexp(1)).exp()


def chance(logits: Tensor, tokens: Tensor, u: Tensor) -> Tensor:  # noqa: ARG001
    """A uniform number: random remasking."""
    return u


def floor_share(blank: Tensor, steps: int, block: int) -> Tensor:
    """blank (B, L) bool -> (B, S) long: how many blanks each row commits at each of its steps (LLaDA's schedule).

    Blocks share the steps, a block's steps share the row's blanks in it; the first ones get one more, and a block has
    at least one step. Steps without a share are left out, so a row with few blanks finishes sooner.
    """
    blocks = -(-blank.shape[1] // block)
    count = torch.stack([part.sum(1) for part in torch.split(blank, block, 1)], 1)[:, :, None]
    number = torch.arange(blocks, device=blank.device)
    share = (steps // blocks + (number < steps % blocks)).clamp(min=1)[:, None]
    step = torch.arange(-(-steps // blocks), device=blank.device)
    quota = torch.where(step < share, count // share + (step < count % share), 0).flatten(1)
    return quota.gather(1, (quota == 0).to(torch.uint8).argsort(dim=1, stable=True))


def top(confidence: Tensor, count: Tensor) -> Tensor:
    """confidence (R, L), count (R,) long -> (R, L) bool: each row's surest cells; ties go to the lower index.

    Never a cell of confidence -inf, however large the count.
    """
    ranked = confidence.argsort(dim=1, descending=True, stable=True)
    best = torch.arange(confidence.shape[1], device=confidence.device) < count[:, None]
    return torch.zeros_like(best).scatter(1, ranked, best) & (confidence != -torch.inf)


def scheduled(canvas: Canvas, steps: int, block: int) -> Rule:
    """The rule that commits as many of the surest blanks as LLaDA's schedule says."""
    if block > canvas.width:
        raise ValueError(
            f"block = {block} is wider than the completion, width = {canvas.width}. Use at most {canvas.width}."
        )
    quota = floor_share(~canvas.given[:, -canvas.width :], steps, block)
    return lambda confidence, rows, step: top(confidence, quota[rows, step])
