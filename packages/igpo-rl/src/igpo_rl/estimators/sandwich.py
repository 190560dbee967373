"""A lower bound for what is to become likelier and an upper one for what is to become less likely."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from attrs import field, frozen, validators

from igpo_rl import later
from igpo_rl.records import Rollouts, View
from igpo_rl.seeds import uniforms
from igpo_rl.views import Level, plan, random_ranks

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = later.load("torch")


@frozen(kw_only=True)
class Sandwich:
    """ELBO where the advantage is >= 0, a mix of EUBO and ELBO where it is negative (SPG, arXiv 2510.09541).

    EUBO = sum over tokens of log(E[1 / t f(o_k)^beta; k masked]) / beta. The expectation over a row's copies stands inside
    the logarithm, so few of them estimate it from below; tokens that none of them masks are left out and the others
    scaled up. Above log pi(o) in any order for sure only if beta >= the number of tokens: at 1.5 up to a constant without
    parameters. With blocks shorter than the row both are scores of the published masks, not bounds.
    """

    samples: int = field(default=2, validator=validators.ge(1))
    """Masks a row, and forwards."""
    beta: float = field(default=1.5, validator=validators.ge(1.0))
    """Exponent in the EUBO."""
    upper: float = field(default=0.5, validator=[validators.ge(0.0), validators.le(1.0)])
    """Share of the EUBO in the score of rows with a negative advantage."""
    block: int = field(default=32, validator=validators.ge(1))
    """Tokens of a block: a random block is masked in part, those before it are shown, those after it are masked."""

    level: ClassVar[Level] = "sequence"

    def __call__(self, rollouts: Rollouts, advantage: Tensor, seeds: Tensor, mask_id: int) -> View:
        """Blocks are spread evenly over a row's masks; k ~ U{1 .. tokens of the block} of the block's are masked.

        A mask of m of a row's n tokens counts n / m (1 / t with the share that is really masked).
        """
        valid = rollouts.valid
        n = valid.sum(1, keepdim=True)
        place = torch.arange(valid.shape[1], device=valid.device)
        blocks = ((n - 1) // self.block + 1).clamp(min=1)
        start = uniforms(seeds, 1, stream=0).double()
        masks = []
        for sample in range(self.samples):
            which = (((start + sample / self.samples) % 1.0) * blocks).floor().clamp(max=blocks - 1).long()
            inside = valid & (place // self.block == which)
            k = (uniforms(seeds, 1, stream=1 + 2 * sample).double() * inside.sum(1, keepdim=True)).floor() + 1
            masks.append(
                (random_ranks(seeds, inside, stream=2 + 2 * sample) < k) & inside | (place // self.block > which)
            )
        masked = torch.stack(masks, 1) | ~valid[:, None]
        count = (masked & valid[:, None]).sum(2, keepdim=True)
        ever = (masked & valid[:, None]).any(1).sum(1)
        share = torch.where(advantage < 0, self.upper, 0.0).to(valid.device)
        extra = torch.stack([1 - share, share * n[:, 0] / ever.clamp(min=1)], 1)
        return plan(rollouts, masked, n[:, None] / (count * self.samples), mask_id, reduce=self.bounds, extra=extra)

    def bounds(self, view: View, logp: Tensor, rows: int) -> Tensor:
        """(S, L) -> (rows, L): extra[:, 0] x ELBO + extra[:, 1] x EUBO of each row, token by token."""
        weight, empty = view.weight.to(logp.dtype), logp.new_zeros(rows, logp.shape[1])
        lower = empty.index_add(0, view.row, weight * logp)
        power = torch.where(view.scored, self.beta * logp + weight.log(), -torch.inf)
        index = view.row[:, None].expand_as(logp)
        top = torch.full_like(empty, -torch.inf).scatter_reduce(0, index, power.detach(), "amax")
        ever = top.isfinite()
        top = top.where(ever, 0.0)
        total = empty.index_add(0, view.row, (power - top[view.row]).exp())
        upper = (total.where(ever, 1.0).log() + top) / self.beta
        assert view.extra is not None  # it was made above
        factor = logp.new_zeros(rows, 2).index_copy(0, view.row, view.extra.to(logp.dtype))
        return factor[:, :1] * lower + factor[:, 1:] * upper
