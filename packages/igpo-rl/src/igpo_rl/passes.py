"""Passes of a policy over a batch: the same micro-batches for the policy in training, the old one and the reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import lazy_loader as lazy
from attrs import evolve, frozen

from igpo_rl.records import Denoiser, Rollouts, Totals, View
from igpo_rl.scores import token_scores
from igpo_rl.views import attended, by_row, cut, scored_by_row

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = lazy.load("torch")


@frozen(eq=False)
class Before:
    """One view under one fixed policy, row by row."""

    logp: Tensor
    """(B, L) nats."""
    entropy: Tensor
    """(B, L) nats; a mean where a cell is scored more than once."""
    scored: Tensor
    """(B, L) bool."""


@frozen(eq=False)
class Passes:
    """Forward passes over a batch, part by part."""

    batch: Rollouts
    """All rows of the phase."""
    rows: Rollouts
    """Those that are scored."""
    parts: Sequence[slice]
    """Slices of `rows`, the same number on every rank."""

    def logp(self, policy: Denoiser, view: View, part: slice) -> Tensor:
        """(b, L) nats, differentiable."""
        inside, completion = self._inside(view, part)
        return by_row(inside, token_scores(policy, inside, completion).logp, len(completion))

    def fixed(self, policy: Denoiser, view: View) -> Before:
        """All parts, without gradient."""
        with torch.no_grad():
            columns = [self._before(policy, view, part) for part in self.parts]
        logp, entropy, scored = (torch.cat(column) for column in zip(*columns, strict=True))
        return Before(logp, entropy, scored)

    def _before(self, policy: Denoiser, view: View, part: slice) -> tuple[Tensor, Tensor, Tensor]:
        inside, completion = self._inside(view, part)
        scores = token_scores(policy, inside, completion, entropy=True)
        times = scored_by_row(inside, len(completion))
        total = torch.zeros_like(times, dtype=scores.logp.dtype).index_add(0, inside.row, scores.entropy)
        scored = (times > 0) & self.rows.valid[part]
        return by_row(inside, scores.logp, len(completion)), total / times.clamp(min=1), scored

    def _inside(self, view: View, part: slice) -> tuple[View, Tensor]:
        """The part's own view; where it is empty, one input of which nothing is scored, so that every rank runs a forward."""
        completion = self.rows.completion[part]
        if len(completion):
            return cut(view, part.start, part.stop), completion
        nothing = view.source.new_empty(0)
        return evolve(
            view,
            noised=torch.cat([self.batch.prompt[:1], self.batch.completion[:1]], 1),
            attention=attended(self.batch)[:1],
            source=nothing,
            row=nothing,
            scored=view.scored[:0],
            weight=view.weight[:0],
        ), completion


def measure(
    rows: int, before: Before, hint: Tensor, kept: Tensor, mask: Tensor, gather: Callable[[Tensor], Tensor]
) -> tuple[Totals, dict[str, float]]:
    """Totals over all ranks, and this rank's contributions to the metrics that describe the old policy on a view."""
    sums = [
        mask.new_tensor(rows, dtype=torch.float64),
        mask.sum(),
        before.scored.sum(),
        hint.sum(),
        before.entropy.where(before.scored, 0.0).sum(),
        before.entropy.where(hint, 0.0).sum(),
        kept.sum(),
    ]
    local = torch.stack([value.double() for value in sums])
    total = gather(local).sum(0).tolist()
    own = local.tolist()
    metrics = {}
    if total[2]:
        metrics["policy/entropy"] = own[4] / total[2]
    if total[3]:
        metrics |= {"policy/entropy_hint": own[5] / total[3], "policy/kept_hints": own[6] / total[3]}
    return Totals(rows=int(total[0]), tokens=int(total[1])), metrics
