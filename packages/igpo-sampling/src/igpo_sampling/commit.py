"""Which blanks are committed at a step: confidences, and rules that turn them into a choice.

Everything is per row and stays on the device: rows with unequal numbers of blanks are the normal case.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from igpo_sampling import noise
from igpo_sampling.canvas import Canvas


class Confidence(Protocol):
    """How sure the model is of a proposed token; the surest are committed first."""

    def __call__(self, logits: Tensor, tokens: Tensor, u: Tensor) -> Tensor:
        """logits (N, V) at temperature 1, tokens (N,) long, u (N,) uniform numbers of their own -> (N,) float."""
        ...


class Rule(Protocol):
    """Chooses the cells to commit."""

    def __call__(self, confidence: Tensor, rows: Tensor, step: Tensor) -> Tensor:
        """confidence (R, L), -inf where no choice is open; rows (R,) long into the canvas, step (R,) long -> (R, L) bool.

        Where it chooses none of a row's open cells, the loop commits the surest.
        """
        ...


# Confidences ---------------------------------------------------------------------------------------------------------


def probability(logits: Tensor, tokens: Tensor, u: Tensor) -> Tensor:  # noqa: ARG001
    """The token's softmax probability (low-confidence remasking of LLaDA, 2502.09992)."""
    return (logits.gather(1, tokens[:, None])[:, 0] - logits.logsumexp(1)).exp()


def margin(logits: Tensor, tokens: Tensor, u: Tensor) -> Tensor:  # noqa: ARG001
    """The highest probability less the second highest, whatever the token (Kim et al., 2502.06768; Dream's topk_margin)."""
    best = (logits.topk(2, 1).values - logits.logsumexp(1, keepdim=True)).exp()
    return best[:, 0] - best[:, 1]


def entropy(logits: Tensor, tokens: Tensor, u: Tensor) -> Tensor:  # noqa: ARG001
    """The negative entropy of the distribution, in nats (Dream, 2508.15487); 0 is certainty."""
    logp = logits.log_softmax(1)
    return (logp.exp() * logp.clamp(min=torch.finfo(logp.dtype).min)).sum(1).clamp(max=0.0)


def chance(logits: Tensor, tokens: Tensor, u: Tensor) -> Tensor:  # noqa: ARG001
    """A uniform number: random remasking."""
    return u


# Schedules: how many a step ------------------------------------------------------------------------------------------


def floor_share(blank: Tensor, steps: int, block: int) -> Tensor:
    """blank (B, L) bool -> (B, S) long: how many blanks each row commits at each of its steps (LLaDA's schedule).

    Blocks share the steps, a block's steps share the row's blanks in it; the first ones get one more, and a block has
    at least one step. Steps without a share are left out, so a row with few blanks finishes sooner.
    """
    quota = []
    for count, share in _shares(blank, steps, block):
        step = torch.arange(share, device=blank.device)
        quota.append(count[:, None] // share + (step < count[:, None] % share))
    return _without_empty_steps(torch.cat(quota, 1))


def dream_share(blank: Tensor, steps: int, block: int) -> Tensor:
    """The same with Dream's schedule (2508.15487): int(m (1 - s / t)) of m blanks, t from 1 to 0.001, the rest at the end.

    In float32 like the published code, so that it rounds alike.
    """
    quota = []
    for left, share in _shares(blank, steps, block):
        time = torch.linspace(1, 1e-3, share + 1, device=blank.device)
        for step in range(share):
            part = (left * (1 - time[step + 1] / time[step])).long() if step < share - 1 else left
            quota.append(part[:, None])
            left = left - part
    return _without_empty_steps(torch.cat(quota, 1))


def _shares(blank: Tensor, steps: int, block: int) -> list[tuple[Tensor, int]]:
    """For each block the rows' blanks in it (B,), and its steps."""
    parts = torch.split(blank, block, 1)
    least, more = divmod(steps, len(parts))
    return [(part.sum(1), max(1, least + (number < more))) for number, part in enumerate(parts)]


def _without_empty_steps(quota: Tensor) -> Tensor:
    return quota.gather(1, (quota == 0).to(torch.uint8).argsort(dim=1, stable=True))


# Rules ---------------------------------------------------------------------------------------------------------------


def top(confidence: Tensor, count: Tensor) -> Tensor:
    """confidence (R, L), count (R,) long -> (R, L) bool: each row's surest cells; ties go to the lower index.

    Never a cell of confidence -inf, however large the count.
    """
    ranked = confidence.argsort(dim=1, descending=True, stable=True)
    best = torch.arange(confidence.shape[1], device=confidence.device) < count[:, None]
    return torch.zeros_like(best).scatter(1, ranked, best) & (confidence != -torch.inf)


def scheduled(
    canvas: Canvas, steps: int, block: int | None, share: Callable[[Tensor, int, int], Tensor] = floor_share
) -> Rule:
    """The rule that commits as many of the surest blanks as a schedule says: `floor_share` or `dream_share`."""
    quota = share(canvas.blanks, steps, block or canvas.width)
    return lambda confidence, rows, step: top(confidence, quota[rows, step])


def stirred(rule: Rule, temperature: float, seeds: Tensor) -> Rule:
    """The same rule on confidence / temperature + Gumbel noise: a draw without replacement by the softmax (Dream's alg_temp)."""

    def stir(confidence: Tensor, rows: Tensor, step: Tensor) -> Tensor:
        position = torch.arange(confidence.shape[1], device=confidence.device)
        u = noise.uniform(seeds[rows, None], step[:, None], position, noise.ORDER).double() + 2.0**-25
        return rule(confidence / temperature - (-u.log()).log(), rows, step)

    return stir


def at_least(threshold: float) -> Rule:
    """All blanks of this confidence or more (Fast-dLLM, 2505.22618)."""
    return lambda confidence, rows, step: confidence >= threshold  # noqa: ARG005


def factor(limit: float) -> Rule:
    """The n surest, with n the largest for which (n + 1) (1 - confidence of the n-th) < limit (Fast-dLLM, 2505.22618).

    The published code keeps on at equality, and when only the last fails, commits it nevertheless.
    """

    def rule(confidence: Tensor, rows: Tensor, step: Tensor) -> Tensor:  # noqa: ARG001
        ranked = confidence.sort(dim=1, descending=True).values
        n = torch.arange(1, ranked.shape[1] + 1, device=ranked.device)
        return top(confidence, (n * ((n + 1) * (1 - ranked) < limit)).amax(1))

    return rule


def entropy_bound(gamma: float) -> Rule:
    """The most blanks, by ascending entropy, whose sum of entropies less the largest is within gamma (EB-sampler, 2505.24857).

    Confidences are `entropy`. At gamma = 0 one blank, and as many more as entropies of exactly 0 make free.
    """

    def rule(confidence: Tensor, rows: Tensor, step: Tensor) -> Tensor:  # noqa: ARG001
        ranked = -confidence.sort(dim=1, descending=True).values
        before = torch.nn.functional.pad(ranked.cumsum(1)[:, :-1], (1, 0))  # the sum less the largest: all but the last
        return top(confidence, (before <= gamma).sum(1))

    return rule


class Steady:
    """Blanks that the model is sure of and whose distributions have come to rest (KLASS, 2511.05664)."""

    def __init__(self, blank: Tensor, *, least: float, kl: float, history: int) -> None:
        self.least, self.kl, self.history = least, kl, history
        self.still = torch.zeros_like(blank, dtype=torch.long)

    def observe(self, drift: Tensor, rows: Tensor) -> None:
        """drift (R, L): KL of each blank's distribution to that of the row's step before, inf where there was none."""
        self.still[rows] = torch.where(drift <= self.kl, self.still[rows] + 1, 0)

    def __call__(self, confidence: Tensor, rows: Tensor, step: Tensor) -> Tensor:  # noqa: ARG002
        return (confidence >= self.least) & (self.still[rows] >= self.history)


def leftmost(confidence: Tensor, rows: Tensor, step: Tensor) -> Tensor:  # noqa: ARG001
    """The first blank (JustGRPO's order of decoding, 2601.15165)."""
    open_ = confidence != -torch.inf
    return open_ & (open_.cumsum(1) == 1)
