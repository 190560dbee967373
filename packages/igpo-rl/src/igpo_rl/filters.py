"""Which hint tokens carry gradient. Hints are off-policy: where the policy is sure of something else, they would
tear at it; where it is undecided, they teach."""

# ruff: noqa: ARG002 - a plug-in is given all that its kind is, needed or not

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import lazy_loader as lazy
from attrs import field, frozen, validators

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = lazy.load("torch")


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
        descending = entropy.masked_fill(~candidate, -torch.inf).argsort(dim=1, descending=True, stable=True)
        rank = torch.empty_like(descending).scatter_(
            1, descending, torch.arange(hint.shape[1], device=hint.device).expand_as(hint)
        )
        return candidate & (rank < keep)


@frozen(kw_only=True)
class KeepAll:
    """Every hint token carries gradient, as if the policy had written it."""

    def __call__(self, entropy: Tensor, logp: Tensor, hint: Tensor, scored: Tensor) -> Tensor:
        return hint & scored
