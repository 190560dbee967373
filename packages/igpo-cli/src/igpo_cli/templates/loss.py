"""A policy gradient whose weights are capped instead of clipped.

A loss makes one differentiable number of log-probs, advantages and a mask. Its parts must add up to the batch's value
however the batch is cut, so it divides by `totals`, which count the whole batch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from attrs import field, frozen, validators

from igpo_rl.hookspecs import hookimpl
from igpo_rl.views import Level

if TYPE_CHECKING:
    from torch import Tensor

    from igpo_rl import Loss, Totals


@frozen(kw_only=True)
class Mine:
    """Advantage times log-prob, weighed by the ratio to the old policy up to a cap (as in CISPO, arXiv 2506.13585)."""

    cap: float = field(default=2.0, validator=validators.gt(0.0))
    """Largest ratio that counts. Beyond it a token keeps its gradient, where clipping would drop it."""

    levels: ClassVar[tuple[Level, ...]] = ("token",)  # of the estimators that it can be used with
    beta: ClassVar[float] = 0.0  # no KL term, so no reference is scored

    def __call__(
        self,
        logp: Tensor,
        old: Tensor,
        advantage: Tensor,
        mask: Tensor,
        ref: Tensor | None,  # noqa: ARG002 a loss is given all that there is
        group: Tensor,  # noqa: ARG002
        hint: Tensor,  # noqa: ARG002
        totals: Totals,
    ) -> Loss:
        """logp, old (B, L) nats, mask (B, L) bool, advantage (B,): a mean over each row's kept tokens, then over rows."""
        from igpo_rl import Loss
        from igpo_rl.losses import row_mean

        kept = logp.where(mask, 0.0)
        ratio = (kept - old.where(mask, 0.0)).detach().exp().clamp(max=self.cap)
        value = -(row_mean(ratio * kept, mask) * advantage).sum() / totals.rows
        return Loss(value, {"policy/loss": float(value.detach())})


@hookimpl
def igpo_losses() -> dict[str, str]:
    return {"mine": "igpo_cli.templates.loss:Mine"}
