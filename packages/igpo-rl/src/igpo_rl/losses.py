"""Policy losses: from log-probs, advantages and a mask to one differentiable number.

`mask` says which tokens count at all (scored, not filtered, in a group with signal), so a loss needs no rule of its own
for hints. Dividing by `totals` makes the values of micro-batches and ranks add up to the batch's.
"""

# ruff: noqa: ARG002 - a plug-in is given all that its kind is, needed or not

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

from attrs import field, frozen, validators

from igpo_rl import later
from igpo_rl.records import Loss, Totals
from igpo_rl.views import Level

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = later.load("torch")

KL = Literal["k1", "k2", "k3"]


class PolicyLoss(Protocol):
    """Plug-in kind `loss`: a frozen attrs class whose fields are its options.

    May also have `whole_groups = True` where it compares the rows of a group: then no group is cut into several parts.
    """

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


def needs_whole_groups(loss: PolicyLoss) -> bool:
    return bool(getattr(loss, "whole_groups", False))


@frozen(kw_only=True)
class Clipped:
    """The options of losses with a clipped ratio of policy to old policy."""

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

    def objective(
        self, logp: Tensor, old: Tensor, advantage: Tensor, mask: Tensor, ref: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(B, L) each: what a token adds to the objective, its ratio, whether it is clipped, and its KL."""
        ratio = (logp - old).where(mask, 0.0).exp()
        gain, clipped = surrogate(
            ratio, weighted(advantage, self.negative_weight)[:, None], self.eps_low, self.eps_high
        )
        kl = divergence(logp, ref, mask, self.kl)
        return gain - self.beta * kl, ratio, clipped, kl


@frozen(kw_only=True)
class GRPO(Clipped):
    """Clipped token ratios, a mean over each row's tokens (GRPO, arXiv 2402.03300, eq. 3; d1, arXiv 2504.12216).

    A row with filtered tokens weighs as much as any other.
    """

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
        gain, ratio, clipped, kl = self.objective(logp, old, advantage, mask, ref)
        return measured(-row_mean(gain, mask).sum() / totals.rows, ratio, clipped, kl, mask, hint, totals)


@frozen(kw_only=True)
class DAPO(Clipped):
    """Clipped token ratios, a mean over all kept tokens of the batch (DAPO, arXiv 2503.14476, eq. 8).

    Long rows weigh more. Its clip is wider above than below 1, and it has no KL term by default.
    """

    eps_high: float = field(default=0.28, validator=validators.ge(0.0))
    """How far the ratio may rise above 1 before it is clipped."""
    beta: float = field(default=0.0, validator=validators.ge(0.0))
    """Weight of the KL divergence from the reference; 0 spares the reference's forward."""

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
        gain, ratio, clipped, kl = self.objective(logp, old, advantage, mask, ref)
        value = -gain.where(mask, 0.0).sum() / max(1, totals.tokens)
        return measured(value, ratio, clipped, kl, mask, hint, totals)


@frozen(kw_only=True)
class DrGRPO(Clipped):
    """Clipped token ratios, a sum over each row's tokens by the width of the canvas (Dr. GRPO, arXiv 2503.20783).

    The normaliser is constant, so a row's length changes nobody's weight. Without a KL term by default.
    """

    beta: float = field(default=0.0, validator=validators.ge(0.0))
    """Weight of the KL divergence from the reference; 0 spares the reference's forward."""

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
        gain, ratio, clipped, kl = self.objective(logp, old, advantage, mask, ref)
        value = -gain.where(mask, 0.0).sum() / (totals.rows * mask.shape[1])
        return measured(value, ratio, clipped, kl, mask, hint, totals)


@frozen(kw_only=True)
class GSPO(Clipped):
    """One clipped ratio a row, the geometric mean over its kept tokens (GSPO, arXiv 2507.18071, eq. 5-7).

    The row is one action: its KL, too, is that of the mean over its kept tokens.
    """

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
        kl = row_divergence(logp, ref, mask, self.kl)
        value = -(gain.where(mask.any(1), 0.0) - self.beta * kl).sum() / totals.rows
        return measured(value, ratio[:, None], clipped[:, None], kl[:, None], mask, hint, totals)


@frozen(kw_only=True)
class RatioFree:
    """The options of losses that weigh log pi(o) itself, and so need no old policy."""

    beta: float = field(default=0.0, validator=validators.ge(0.0))
    """Weight of the KL divergence from the reference, none as published; 0 spares the reference's forward."""
    kl: KL = field(default="k3", validator=validators.in_(("k1", "k2", "k3")))
    """Estimator of the KL: k3, k2 with the gradient of KL(policy||reference), k1 only reported."""
    negative_weight: float = field(default=1.0, validator=validators.ge(0.0))
    """Factor on negative weights; they sum to 0 with the positive ones only at 1."""

    levels: ClassVar[tuple[Level, ...]] = ("token", "sequence")

    def penalised(
        self, gain: Tensor, logp: Tensor, old: Tensor, mask: Tensor, ref: Tensor | None, hint: Tensor, totals: Totals
    ) -> Loss:
        """gain (): this part's share of the objective, without KL."""
        kl = row_divergence(logp, ref, mask, self.kl)
        ratio = row_mean(logp - old, mask).exp()
        value = self.beta * kl.sum() / totals.rows - gain
        return measured(value, ratio[:, None], torch.zeros_like(mask), kl[:, None], mask, hint, totals)


@frozen(kw_only=True)
class WD1(RatioFree):
    """Each group's log pi(o) weighed by softmax(psi A) - softmax(-psi A), without ratio (wd1, arXiv 2507.08838).

    A mean over groups of the sum over a group's rows and their kept tokens. Groups with equal rewards weigh exactly 0.
    """

    psi: float = field(default=1.0, validator=validators.gt(0.0))
    """Factor on advantages before the softmax; larger ones single out the best and the worst rows."""

    whole_groups: ClassVar[bool] = True

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
        same = group[:, None] == group
        strong, weak = (
            (score - torch.where(same, score, -torch.inf).logsumexp(1)).exp()
            for score in (self.psi * advantage, -self.psi * advantage)
        )
        weight = weighted(strong - weak, self.negative_weight) * same.sum(1)
        gain = (weight * logp.where(mask, 0.0).sum(1)).sum() / totals.rows
        return self.penalised(gain, logp, old, mask, ref, hint, totals)


@frozen(kw_only=True)
class SPG(RatioFree):
    """Advantage times log pi(o), a mean over all kept tokens of the batch (SPG, arXiv 2510.09541).

    Made for the estimator `sandwich`, which bounds log pi(o) from below where the advantage is positive and mixes in a
    bound from above where it is negative.
    """

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
        weight = weighted(advantage, self.negative_weight)
        gain = (weight * logp.where(mask, 0.0).sum(1)).sum() / max(1, totals.tokens)
        return self.penalised(gain, logp, old, mask, ref, hint, totals)


def weighted(advantage: Tensor, negative: float) -> Tensor:
    """The advantage, times `negative` where it is below 0; same shape."""
    return advantage * torch.ones_like(advantage).where(advantage >= 0, negative)


def surrogate(ratio: Tensor, advantage: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    """min(ratio A, clip(ratio) A), and where the clip is what counts (PPO, arXiv 1707.06347, eq. 7)."""
    free, held = ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage
    return torch.minimum(free, held), held < free


def divergence(logp: Tensor, ref: Tensor | None, mask: Tensor, kind: KL) -> Tensor:
    """Of any shape: estimates of the KL from the reference at what was drawn (Schulman, "Approximating KL divergence", 2020).

    As a loss k1 has zero expected gradient, so it is only reported; k2 has the gradient of KL(policy||reference);
    k3, the published choice, estimates that divergence but has the gradient of KL(reference||policy).
    """
    if ref is None:
        return torch.zeros_like(logp)
    gap = (ref - logp).where(mask, 0.0)
    if kind == "k1":
        return -gap.detach()
    return gap.square() / 2 if kind == "k2" else gap.expm1() - gap


def row_divergence(logp: Tensor, ref: Tensor | None, mask: Tensor, kind: KL) -> Tensor:
    """(B,) the same of each row's mean over kept tokens: of estimates whose sum alone means something, or of one action.

    As large as the mean over tokens where the gaps of a row's tokens agree.
    """
    mean = None if ref is None else row_mean(ref, mask)
    return divergence(row_mean(logp, mask), mean, mask.any(1), kind)


def row_mean(values: Tensor, mask: Tensor) -> Tensor:
    """(B, L) -> (B,): the mean over each row's kept tokens, 0 where a row keeps none."""
    return values.where(mask, 0.0).sum(1) / mask.sum(1).clamp(min=1)


def measured(
    value: Tensor, ratio: Tensor, clipped: Tensor, kl: Tensor, mask: Tensor, hint: Tensor, totals: Totals
) -> Loss:
    """The loss with its share of the batch's metrics, split by the policy's own tokens and hints; one transfer to the host.

    Of rows as one, ratio, clipped and kl are (B, 1).
    """
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
