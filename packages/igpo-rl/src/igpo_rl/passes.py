"""Passes of a policy over a batch: the same micro-batches for the policy in training, the old one and the reference."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from attrs import evolve, frozen

from igpo_rl import later
from igpo_rl.memory import Room, Work
from igpo_rl.records import Denoiser, Rollouts, Totals, View
from igpo_rl.scores import token_scores
from igpo_rl.views import attended, by_row, cut, scored_by_row

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = later.load("torch")


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
    work: Work
    """How they are cut."""
    room: Room

    def logp(self, policy: Denoiser, view: View, part: slice) -> Tensor:
        """(b, L) nats, differentiable."""
        inside, completion = self._inside(view, part)
        return by_row(inside, token_scores(policy, inside, completion).logp, len(completion))

    def fixed(self, policy: Denoiser, view: View) -> Before:
        """All parts, without gradient."""
        columns = []
        for piece in self.room.pieces(evolve(self.work, closing=False), anew=False):
            with self.room.tried(), torch.no_grad():
                columns.append(self._before(policy, view, piece.rows))
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
        inside, completion = cut(view, part.start, part.stop), self.rows.completion[part]
        if not len(inside.noised):
            noised = torch.cat([self.batch.prompt[:1], self.batch.completion[:1]], 1)
            inside = evolve(inside, noised=noised, attention=attended(self.batch)[:1])
        return inside, completion


def measure(
    rows: int,
    advantage: Tensor,
    before: Before,
    hint: Tensor,
    kept: Tensor,
    mask: Tensor,
    gather: Callable[[Tensor], Tensor],
) -> tuple[Totals, dict[str, float]]:
    """Totals over all ranks, and this rank's contributions to the metrics that describe the old policy on a view.

    advantage (B,), hint (scored ones), kept (of them) and mask (all tokens that keep their gradient) (B, L).
    """
    own = before.scored & ~hint
    # The gradient in the logits, were the loss a mean over each row's tokens: |A| / n times about 1 - p a token.
    gradient = (1 - before.logp.exp()) * (advantage.abs() / mask.sum(1).clamp(min=1))[:, None]
    sums = {
        "rows": mask.new_tensor(rows, dtype=torch.float64),
        "mask": mask.sum(),
        "scored": before.scored.sum(),
        "hint": hint.sum(),
        "kept": kept.sum(),
        "entropy_own": before.entropy.where(own, 0.0).sum(),
        "entropy_hint": before.entropy.where(hint, 0.0).sum(),
        "logp_own": before.logp.where(own, 0.0).sum(),
        "logp_hint": before.logp.where(hint, 0.0).sum(),
        "gradient_own": gradient.where(mask & ~hint, 0.0).sum(),
        "gradient_hint": gradient.where(mask & hint, 0.0).sum(),
    }
    local = torch.stack([value.double() for value in sums.values()])
    total = dict(zip(sums, gather(local).sum(0).tolist(), strict=True))
    mine = dict(zip(sums, local.tolist(), strict=True))
    metrics = {f"gradient/{name}_proxy": mine[f"gradient_{name}"] / max(1.0, total["rows"]) for name in ("own", "hint")}
    scored, hints = total["scored"], total["hint"]
    for name in ("entropy", "logp"):
        if scored:
            metrics[f"policy/{name}"] = (mine[f"{name}_own"] + mine[f"{name}_hint"]) / scored
        if scored > hints:
            metrics[f"policy/{name}_own"] = mine[f"{name}_own"] / (scored - hints)
        if hints:
            metrics[f"policy/{name}_hint"] = mine[f"{name}_hint"] / hints
    if hints:
        metrics["policy/kept_hints"] = mine["kept"] / hints
    return Totals(rows=int(total["rows"]), tokens=int(total["mask"]), hints=int(total["kept"])), metrics
