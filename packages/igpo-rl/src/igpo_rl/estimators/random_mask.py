"""One noise level a row and update, as in pre-training: over the updates a policy is scored at many of them."""

# ruff: noqa: ARG002 - a plug-in is given all that its kind is, needed or not

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from attrs import field, frozen, validators

from igpo_rl import later
from igpo_rl.records import Rollouts, View
from igpo_rl.seeds import uniforms
from igpo_rl.views import Level, plan

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = later.load("torch")


@frozen(kw_only=True)
class RandomMask:
    """Part of the completion masked, one draw a row and inner update (UniGRPO, arXiv 2505.15809).

    Log-probs of the masked tokens given the others: a loss that averages over a row's tokens sees the model's
    reconstruction at that noise level. Neither log pi(o) nor, without 1 / t, a bound of it.
    """

    low: float = field(default=0.0, validator=[validators.ge(0.0), validators.le(1.0)])
    """Least share t of masked completion tokens."""
    high: float = field(default=1.0, validator=[validators.gt(0.0), validators.le(1.0)])
    """Largest share t of masked completion tokens."""

    level: ClassVar[Level] = "token"

    def __attrs_post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError(f"low = {self.low} is above high = {self.high}; the masked share is drawn between them")

    def __call__(self, rollouts: Rollouts, advantage: Tensor, seeds: Tensor, mask_id: int) -> View:
        """t ~ U[low, high] a row, each completion token masked with chance t, masked tokens scored; never none of them."""
        valid = rollouts.valid
        t = self.low + (self.high - self.low) * uniforms(seeds, 1, stream=0)
        u = uniforms(seeds, valid.shape[1], stream=1)
        least = u.where(valid, torch.inf).amin(1, keepdim=True)
        masked = u <= torch.maximum(t, least)
        return plan(rollouts, masked[:, None], torch.ones((), device=valid.device), mask_id)
