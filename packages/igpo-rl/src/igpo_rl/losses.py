"""Policy losses: from log-probs, advantages and a mask to one differentiable number.

`mask` says which tokens count at all (scored, not filtered, in a group with signal), so a loss needs no rule of its own
for hints. Every row is a mean over its own kept tokens, so a row with filtered tokens weighs as much as any other;
dividing by `totals` makes the values of micro-batches and ranks add up to the batch's.
"""

# ruff: noqa: ARG002 - a plug-in is given all that its kind is, needed or not

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

import lazy_loader as lazy
from attrs import field, frozen, validators

from igpo_rl.records import Loss, Totals
from igpo_rl.views import Level

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = lazy.load("torch")

KL = Literal["k1", "k2", "k3"]


class PolicyLoss(Protocol):
    """Plug-in kind `loss`: a frozen attrs class whose fields are its options."""

    @property
    def levels(self) -> tuple[Level, ...]:
        """The estimator levels that the loss can use."""
        ...

    @property
    def beta(self) -> float:
        """Weight of the KL term; at 0 no reference is scored."""
        ...

    def __call__(
        self,
        logp: Tensor,
        old: Tensor,
        advantage: Tensor,
        mask: Tensor,
        ref: Tensor | None,
        group: Tensor,
        hint: Tensor,
        totals: Totals,
    ) -> Loss:
        """logp, old, ref (B, L) nats; mask, hint (B, L) bool; advantage (B,); group (B,) long. B may be any part of the batch.

        Metrics are contributions that add up over parts, except names that end in `_max`, of which the largest counts.
        """
        ...


@frozen(kw_only=True)
class GRPO:
    """Clipped token ratios, a mean over each row's tokens (GRPO, arXiv 2402.03300, eq. 3; d1, arXiv 2504.12216)."""

    eps_low: float = field(default=0.2, validator=[validators.ge(0.0), validators.le(1.0)])
    """How far the ratio may fall below 1 before it is clipped."""
    eps_high: float = field(default=0.2, validator=validators.ge(0.0))
    """How far the ratio may rise above 1 before it is clipped."""
    beta: float = field(default=0.01, validator=validators.ge(0.0))
    """Weight of the KL divergence from the reference; 0 spares the reference's forward."""
    kl: KL = field(default="k3", validator=validators.in_(("k1", "k2", "k3")))
    """Estimator of the KL: k3 as published, k2 with the gradient of KL(policy||reference), k1 only reported."""
    negative_weight: float = field(default=1.0, validator=validators.ge(0.0))
    """Factor on negative advantages; they sum to 0 with the positive ones only at 1."""

    levels: ClassVar[tuple[Level, ...]] = ("token",)

    def __call__(
        self,
        logp: Tensor,
        old: Tensor,
        advantage: Tensor,
        mask: Tensor,
        ref: Tensor | None,
        group: Tensor,
        hint: Tensor,
        totals: Totals,
    ) -> Loss:
        ratio = (logp - old).where(mask, 0.0).exp()
        weight = weighted(advantage, self.negative_weight)[:, None]
        gain, clipped = surrogate(ratio, weight, self.eps_low, self.eps_high)
        kl = divergence(logp, ref, mask, self.kl)
        value = -row_mean(gain - self.beta * kl, mask).sum() / totals.rows
        return measured(value, ratio, clipped, kl, mask, hint, totals)


@frozen(kw_only=True)
class GSPO:
    """One clipped ratio a row, the geometric mean over its kept tokens (GSPO, arXiv 2507.18071, eq. 5-7)."""

    eps_low: float = field(default=0.2, validator=[validators.ge(0.0), validators.le(1.0)])
    """How far the ratio may fall below 1 before it is clipped."""
    eps_high: float = field(default=0.2, validator=validators.ge(0.0))
    """How far the ratio may rise above 1 before it is clipped."""
    beta: float = field(default=0.01, validator=validators.ge(0.0))
    """Weight of the KL divergence from the reference; 0 spares the reference's forward."""
    kl: KL = field(default="k3", validator=validators.in_(("k1", "k2", "k3")))
    """Estimator of the KL: k3 as published, k2 with the gradient of KL(policy||reference), k1 only reported."""
    negative_weight: float = field(default=1.0, validator=validators.ge(0.0))
    """Factor on negative advantages; they sum to 0 with the positive ones only at 1."""

    levels: ClassVar[tuple[Level, ...]] = ("token", "sequence")

    def __call__(
        self,
        logp: Tensor,
        old: Tensor,
        advantage: Tensor,
        mask: Tensor,
        ref: Tensor | None,
        group: Tensor,
        hint: Tensor,
        totals: Totals,
    ) -> Loss:
        ratio = row_mean(logp - old, mask).exp()
        gain, clipped = surrogate(ratio, weighted(advantage, self.negative_weight), self.eps_low, self.eps_high)
        kl = divergence(logp, ref, mask, self.kl)
        value = -(gain.where(mask.any(1), 0.0) - self.beta * row_mean(kl, mask)).sum() / totals.rows
        return measured(value, ratio[:, None].expand_as(mask), clipped[:, None].expand_as(mask), kl, mask, hint, totals)


def weighted(advantage: Tensor, negative: float) -> Tensor:
    return advantage * torch.ones_like(advantage).where(advantage >= 0, negative)


def surrogate(ratio: Tensor, advantage: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    """min(ratio A, clip(ratio) A), and where the clip is what counts (PPO, arXiv 1707.06347, eq. 7)."""
    free, held = ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage
    return torch.minimum(free, held), held < free


def divergence(logp: Tensor, ref: Tensor | None, mask: Tensor, kind: KL) -> Tensor:
    """(B, L) estimates of the KL from the reference at the drawn tokens (Schulman, "Approximating KL divergence", 2020).

    As a loss k1 has zero expected gradient, so it is only reported; k2 has the gradient of KL(policy||reference);
    k3, the published choice, estimates that divergence but has the gradient of KL(reference||policy).
    """
    if ref is None:
        return torch.zeros_like(logp)
    gap = (ref - logp).where(mask, 0.0)
    if kind == "k1":
        return -gap.detach()
    return gap.square() / 2 if kind == "k2" else gap.expm1() - gap


def row_mean(values: Tensor, mask: Tensor) -> Tensor:
    """(B, L) -> (B,): the mean over each row's kept tokens, 0 where a row keeps none."""
    return values.where(mask, 0.0).sum(1) / mask.sum(1).clamp(min=1)


def measured(
    value: Tensor, ratio: Tensor, clipped: Tensor, kl: Tensor, mask: Tensor, hint: Tensor, totals: Totals
) -> Loss:
    """The loss with its share of the batch's metrics, split by the policy's own tokens and hints; one transfer to the host."""
    own, hints = mask & ~hint, mask & hint
    parts = {"": (mask, totals.tokens), "_own": (own, totals.tokens - totals.hints), "_hint": (hints, totals.hints)}
    sums = {"policy/loss": value, "policy/kl": kl.where(mask, 0.0).sum() / max(1, totals.tokens)}
    for name, (tokens, count) in parts.items():
        if count or not name:
            sums[f"policy/ratio{name}"] = ratio.where(tokens, 0.0).sum() / max(1, count)
            sums[f"policy/clip{name}"] = clipped.where(tokens, False).sum() / max(1, count)
    sums["policy/ratio_max"] = ratio.where(mask, 0.0).amax() if mask.numel() else value.new_zeros(())
    numbers = torch.stack([number.detach().to(value.dtype) for number in sums.values()]).tolist()
    return Loss(value, dict(zip(sums, numbers, strict=True)))
