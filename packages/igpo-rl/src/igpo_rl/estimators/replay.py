"""Conditionals in an order of writing: each token is scored in a copy that shows what was written before it."""

# ruff: noqa: ARG002 - a plug-in is given all that its kind is, needed or not

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from attrs import field, frozen, validators

from igpo_rl import later
from igpo_rl.records import Rollouts, View
from igpo_rl.views import Level, plan

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = later.load("torch")


@frozen(kw_only=True)
class Trajectory:
    """The order in which the sampler wrote the row, some steps at a time (TraceRL, arXiv 2509.06949).

    At steps = 1 these are the conditionals, at temperature 1, that a row without hints was drawn from, so their sum is the
    log-prob of its tokens given the order; with more steps, tokens of one group do not see each other. One forward a
    group. A hint is masked until the group of the nearest written token (of two, the one before it) and scored there.
    """

    steps: int = field(default=8, validator=validators.ge(1))
    """Steps in which the row gained tokens that are scored together, in one forward."""
    show_hints: bool = False
    """Show hints from the start and score none; by default each is scored with the nearest token that was written."""

    level: ClassVar[Level] = "token"

    def __call__(self, rollouts: Rollouts, advantage: Tensor, seeds: Tensor, mask_id: int) -> View:
        """Draws nothing: the views of all updates are equal. A row without a token of its own is scored in one group."""
        if rollouts.order is None:
            raise ValueError(
                "a trajectory replays `order`, the step at which each token was written, and these rollouts have none; "
                "let play record it, or choose another estimator"
            )
        written = ~rollouts.given
        order = rollouts.order.clamp(min=0)
        busy = order.new_zeros(len(rollouts), _count(order))
        busy.scatter_reduce_(1, order, written.long(), "amax")
        turn = (busy.cumsum(1) - 1).clamp(min=0).gather(1, order) // self.steps
        if self.show_hints:
            return replay(rollouts, turn.masked_fill(~written, -1), mask_id)
        place, end = torch.arange(order.shape[1], device=order.device), order.shape[1] - 1
        before = place.where(written, -1).cummax(1).values
        behind = place.where(written, 2 * end + 1).flip(1).cummin(1).values.flip(1)
        nearest = before.where((before >= 0) & (place - before <= behind - place), behind).clamp(max=end)
        return replay(rollouts, turn.gather(1, nearest), mask_id)


@frozen(kw_only=True)
class LeftToRight:
    """The left-to-right policy of the model, some tokens at a time (JustGRPO, arXiv 2601.15165).

    At block = 1 the sum is the exact log-prob of writing the row from left to right, one token a step: of that policy,
    not of the diffusion model, and neither above nor below its ELBO. Larger blocks are approximations, since tokens of a
    block do not see each other. One forward a block.
    """

    block: int = field(default=1, validator=validators.ge(1))
    """Tokens that are scored together, in one forward."""

    level: ClassVar[Level] = "token"

    def __call__(self, rollouts: Rollouts, advantage: Tensor, seeds: Tensor, mask_id: int) -> View:
        """Draws nothing: the views of all updates are equal."""
        valid = rollouts.valid
        turn = torch.arange(valid.shape[1], device=valid.device) // self.block
        return replay(rollouts, turn.expand_as(valid), mask_id)


def replay(rollouts: Rollouts, turn: Tensor, mask_id: int) -> View:
    """turn (B, L) long: a copy for every turn, in which what is of an earlier one is shown, and the turn's own tokens are
    scored; those of turn -1 are always shown and never scored."""
    turns = torch.arange(_count(turn), device=turn.device)[:, None]
    now = turn[:, None]
    return plan(
        rollouts,
        now >= turns,
        torch.ones((), device=turn.device),
        mask_id,
        scored=(now == turns) & rollouts.valid[:, None],
    )


def _count(numbers: Tensor) -> int:
    """One more than the largest number of a table, which may have no rows."""
    return 1 + int(numbers.max()) if len(numbers) else 0
