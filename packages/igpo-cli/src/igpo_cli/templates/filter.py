"""Hint tokens teach only where the policy might have written them itself.

Hints are not the policy's own words. A filter says which of their tokens carry gradient: what it leaves out counts
neither in the objective nor in the KL divergence.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import field, frozen, validators

from igpo_rl.hookspecs import hookimpl

if TYPE_CHECKING:
    from torch import Tensor


@frozen(kw_only=True)
class Mine:
    """The hint tokens that the old policy gives some chance."""

    least: float = field(default=0.05, validator=[validators.gt(0.0), validators.le(1.0)])
    """Least probability of a token that is kept."""

    def __call__(
        self,
        entropy: Tensor,  # noqa: ARG002 a filter is given all that there is
        logp: Tensor,
        hint: Tensor,
        scored: Tensor,
    ) -> Tensor:
        """All (B, L); logp in nats, of the old policy -> bool, a subset of `hint & scored`."""
        return hint & scored & (logp.exp() >= self.least)


@hookimpl
def igpo_filters() -> dict[str, str]:
    return {"mine": "igpo_cli.templates.filter:Mine"}
