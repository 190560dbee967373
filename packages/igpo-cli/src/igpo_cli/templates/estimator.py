"""The likelihood of a window of the completion, given what stands around it.

A masked-diffusion model gives no log-prob of a whole text at once, so one is estimated. An estimator plans that: which
positions are masked, and which of the masked ones are scored. The plan is made anew for every inner update.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from attrs import field, frozen, validators

from igpo_rl.hookspecs import hookimpl
from igpo_rl.views import Level

if TYPE_CHECKING:
    from torch import Tensor

    from igpo_rl import Rollouts, View


@frozen(kw_only=True)
class Mine:
    """A window of each completion masked and scored, at a place of its own."""

    share: float = field(default=0.5, validator=[validators.gt(0.0), validators.le(1.0)])
    """Length of the window, as a share of the completion."""

    level: ClassVar[Level] = "token"  # each (B, L) cell is the log-prob of its own token

    def __call__(
        self,
        rollouts: Rollouts,
        advantage: Tensor,  # noqa: ARG002 the plan does not depend on it
        seeds: Tensor,
        mask_id: int,
    ) -> View:
        """seeds (B,) long, fresh for every update. What lies behind the end is masked too, but never scored."""
        import torch

        from igpo_rl import uniforms
        from igpo_rl.views import plan

        length = rollouts.valid.sum(1, keepdim=True)
        size = (self.share * length).ceil().long()
        start = (uniforms(seeds, 1) * (length - size + 1)).long()
        place = torch.arange(rollouts.valid.shape[1], device=seeds.device)
        masked = (place >= start) & (place < start + size) | ~rollouts.valid
        return plan(rollouts, masked[:, None], torch.ones((), device=seeds.device), mask_id)


@hookimpl
def igpo_estimators() -> dict[str, str]:
    return {"mine": "igpo_cli.templates.estimator:Mine"}
