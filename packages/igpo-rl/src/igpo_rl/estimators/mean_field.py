"""All tokens at once, each from the prompt alone: the cheapest estimate, and the one that a whole group shares."""

# ruff: noqa: ARG002 - a plug-in is given all that its kind is, needed or not

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from attrs import field, frozen, validators

from igpo_rl import later
from igpo_rl.records import Rollouts, View
from igpo_rl.seeds import uniforms
from igpo_rl.views import Level, first_rows, plan

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = later.load("torch")


@frozen(kw_only=True)
class MeanField:
    """Whole completion masked: one forward a group (d1, arXiv 2504.12216, section 3).

    The log-prob of a policy that draws all tokens in one step, not of one that looks at what it has written.
    """

    prompt_mask: float = field(default=0.0, validator=[validators.ge(0.0), validators.lt(1.0)])
    """Chance of masking a prompt token, drawn anew for every inner update and shared within a group (d1: 0.15)."""

    level: ClassVar[Level] = "token"

    def __call__(self, rollouts: Rollouts, advantage: Tensor, seeds: Tensor, mask_id: int) -> View:
        """The input [prompt, all masks] is the same for all rows of a group, so there is one of it: U = groups, S = B."""
        prompt, (first, group) = rollouts.prompt, first_rows(rollouts.group)
        # Counted from the right, so that a token's chance does not depend on the width of the padding.
        hidden = (uniforms(seeds[first], prompt.shape[1]).flip(1) < self.prompt_mask)[group] & rollouts.prompt_valid
        return plan(
            rollouts,
            torch.ones_like(rollouts.valid)[:, None],
            torch.ones((), device=prompt.device),
            mask_id,
            prompt=prompt.masked_fill(hidden, mask_id),
        )
