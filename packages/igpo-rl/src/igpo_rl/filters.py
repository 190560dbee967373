"""Which hint tokens carry gradient. Hints are off-policy: where the policy is sure of something else, they would
tear at it; where it is undecided, they teach."""

# ruff: noqa: ARG002 - a plug-in is given all that its kind is, needed or not

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from attrs import field, frozen, validators

from igpo_rl import later

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = later.load("torch")


class EntropyFilter(Protocol):
    """Plug-in kind `filter`: a frozen attrs class whose fields are its options."""

    def __call__(self, entropy: Tensor, logp: Tensor, hint: Tensor, scored: Tensor) -> Tensor:
        """All (B, L); entropy (nats) and logp under the old policy -> bool, a subset of `hint & scored`: True keeps its gradient."""
        ...


@frozen(kw_only=True)
class TopEntropy:
    """The hint tokens that the old policy is least sure of, row by row (IGPO, arXiv 2509.10396: tau = 0.2)."""

    tau: float = field(default=0.2, validator=[validators.ge(0.0), validators.le(1.0)])
    """Share of a row's scored hint tokens that is kept: max(1, floor(n * tau)) of n."""

    def __call__(self, entropy: Tensor, logp: Tensor, hint: Tensor, scored: Tensor) -> Tensor:
        """Ties go to the earlier position. A row without a scored hint keeps nothing."""
        candidate = hint & scored
        keep = (candidate.sum(1, keepdim=True) * self.tau + 1e-4).floor().clamp(min=1)
        return candidate & (entropy_rank(entropy, candidate) < keep)


@frozen(kw_only=True)
class Threshold:
    """The hint tokens that the old policy is unsure of by more than so many nats."""

    nats: float = field(default=0.5, validator=validators.ge(0.0))
    """Least entropy of a token that is kept; ln 2 is that of a fair coin."""

    def __call__(self, entropy: Tensor, logp: Tensor, hint: Tensor, scored: Tensor) -> Tensor:
        return hint & scored & (entropy >= self.nats)


@frozen(kw_only=True)
class AdaptiveFilter:
    """As many hint tokens, the least sure ones first, as leave most of a row's gradient to the policy's own tokens.

    1 - p of a token stands for the size of its gradient in the logits, which is (1 - p, -p_v, ...): near 0 where the
    policy would have written the token anyway, near 1 where it would never have.
    """

    share: float = field(default=0.2, validator=[validators.ge(0.0), validators.lt(1.0)])
    """Largest share of the kept hints in a row's sum of 1 - p over all tokens that keep their gradient."""

    def __call__(self, entropy: Tensor, logp: Tensor, hint: Tensor, scored: Tensor) -> Tensor:
        """A row without tokens of its own, or whose first hint is already too much, keeps none."""
        candidate = hint & scored
        size = 1 - logp.exp()
        bound = size.where(scored & ~hint, 0.0).sum(1, keepdim=True) * self.share / (1 - self.share)
        rank = entropy_rank(entropy, candidate)
        order = rank.argsort(1)
        taken = size.where(candidate, 0.0).gather(1, order).cumsum(1).gather(1, rank)
        return candidate & (taken <= bound)


@frozen(kw_only=True)
class KeepAll:
    """Every hint token carries gradient, as if the policy had written it."""

    def __call__(self, entropy: Tensor, logp: Tensor, hint: Tensor, scored: Tensor) -> Tensor:
        return hint & scored


@frozen(kw_only=True)
class DropHints:
    """No hint token carries gradient: hints only bring the policy to where it succeeds by itself."""

    def __call__(self, entropy: Tensor, logp: Tensor, hint: Tensor, scored: Tensor) -> Tensor:
        return torch.zeros_like(hint)


def entropy_rank(entropy: Tensor, candidate: Tensor) -> Tensor:
    """(B, L) long: place of each cell by falling entropy among its row's candidates, which come first; ties by position."""
    descending = entropy.masked_fill(~candidate, -torch.inf).argsort(dim=1, descending=True, stable=True)
    places = torch.arange(entropy.shape[1], device=entropy.device).expand_as(descending)
    return torch.empty_like(descending).scatter_(1, descending, places)
