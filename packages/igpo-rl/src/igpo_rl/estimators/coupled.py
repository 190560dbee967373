"""A random mask and its complement: every token is scored once under noise, whatever the mask."""

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
class Coupled:
    """Coupled sampling: a mask, its complement, and all masked (DiffuCoder, arXiv 2506.20639, section 4.2).

    A token's score is (l + l' / p) / 2 where the mask, drawn with chance p, hides it, and (l + l' / (1 - p)) / 2 where
    the complement does; l is its log-prob with everything masked, l' with that mask. A weighted score: not a log-prob of
    anything, and larger than one.
    """

    low: float = field(default=0.2, validator=[validators.ge(0.0), validators.le(1.0)])
    """Least chance p of the first mask."""
    high: float = field(default=0.8, validator=[validators.ge(0.0), validators.le(1.0)])
    """Largest chance p of the first mask."""
    normalised: bool = False
    """Leave out l, and one forward: without bias for the ELBO if p is drawn between 0 and 1, and only then."""

    level: ClassVar[Level] = "token"

    def __attrs_post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError(f"low = {self.low} is above high = {self.high}; the chance p is drawn between them")

    def __call__(self, rollouts: Rollouts, advantage: Tensor, seeds: Tensor, mask_id: int) -> View:
        """p ~ U[low, high] a row. What follows the first EOS is masked in all copies, so that none shows the length."""
        valid = rollouts.valid
        p = self.low + (self.high - self.low) * uniforms(seeds, 1, stream=0)
        first = uniforms(seeds, valid.shape[1], stream=1) < p
        masks, shares = [first | ~valid, ~first | ~valid], [p, 1 - p]
        if not self.normalised:
            masks, shares = [torch.ones_like(valid), *masks], [torch.ones_like(p), *shares]
        weight = 0.5 / torch.stack(shares, 1)
        return plan(rollouts, torch.stack(masks, 1), weight, mask_id)
