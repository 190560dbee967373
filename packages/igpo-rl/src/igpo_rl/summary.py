"""What a rollout phase measured, under the names that logs and reports use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import lazy_loader as lazy

from igpo_rl.records import Rollouts

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = lazy.load("torch")


def summarise(
    originals: Rollouts, batch: Rollouts, stuck: Tensor, counts: Mapping[str, float], gather: Callable[[Tensor], Tensor]
) -> dict[str, float]:
    """`originals` as sampled, `batch` after the splice, stuck (Q,) bool before it; sums over all ranks, then shares.

    A name whose denominator is zero is left out, as is what the player does not record.
    """
    rescued = stuck & batch.correct.view(len(stuck), -1).any(1)
    hint = batch.given & batch.valid
    hinted = torch.zeros_like(batch.correct) if batch.hinted is None else batch.hinted
    local: dict[str, float | Tensor] = {
        "groups": len(stuck),
        "rows": len(originals),
        "stuck": stuck.sum(),
        "rescued": rescued.sum(),
        "reward": originals.reward.sum(),
        "spliced": batch.reward.sum(),
        "correct": originals.correct.sum(),
        "forwards": originals.forwards.sum(),
        "ended": 0 if originals.ended is None else originals.ended.sum(),
        "hinted": hinted.sum(),
        "scored": batch.valid.sum(),
        "hints": hint.sum(),
        **counts,
    }
    device = batch.completion.device
    values = torch.stack([torch.as_tensor(value, dtype=torch.float64, device=device) for value in local.values()])
    total = dict(zip(local, gather(values).sum(0).tolist(), strict=True))
    metrics = {
        "stuck/before": total["stuck"] / total["groups"],
        "stuck/after": (total["stuck"] - total["rescued"]) / total["groups"],
        "reward/mean": total["reward"] / total["rows"],
        "reward/spliced": total["spliced"] / total["rows"],
        "correct/mean": total["correct"] / total["rows"],
        "sample/forwards": total["forwards"] / total["rows"],
        "hint/rows": total["hinted"] / total["rows"],
        "hint/tokens": total["hints"] / max(1.0, total["scored"]),
        "hint/answer_leak": total["leak"],
        "hint/answer_value_seen": total["seen"],
    }
    if total["inpainted"]:
        metrics["sample/forwards_inpainted"] = total["spent"] / total["inpainted"]
    if total["stuck"]:
        metrics["stuck/rescued"] = total["rescued"] / total["stuck"]
    if total["slots"]:
        metrics["hint/shown"] = total["shown"] / total["slots"]  # of the inpainted rows, kept or not
    if originals.ended is not None:
        metrics["sample/eos"] = total["ended"] / total["rows"]
    return metrics
