"""What a rollout phase measured, under the names that logs and reports use."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from igpo_rl import later
from igpo_rl.records import Rollouts

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = later.load("torch")

NOTES = ("no-answer", "unverifiable", "timeout", "error", "memory", "too-long")
# What a verdict may say besides its reward; a word of a verifier's own is not counted.


def pass_at_k(correct: int, samples: int, k: int) -> float:
    """Unbiased estimate that at least one of k draws is correct, from `samples` >= k draws (Chen et al., 2107.03374)."""
    if samples - correct < k:
        return 1.0
    return 1.0 - math.comb(samples - correct, k) / math.comb(samples, k)


def summarise(
    originals: Rollouts, batch: Rollouts, stuck: Tensor, counts: Mapping[str, float], gather: Callable[[Tensor], Tensor]
) -> dict[str, float]:
    """`originals` as first sampled, before any refill; `batch` after the splice, stuck (Q,) bool before it. Sums over all ranks, then shares.

    A name whose denominator is zero is left out, as is what the player does not record.
    """
    rescued = stuck & batch.correct.view(len(stuck), -1).any(1)
    hint = batch.given & batch.valid
    hinted = torch.zeros_like(batch.correct) if batch.hinted is None else batch.hinted
    right = originals.correct.view(len(stuck), -1).sum(1).tolist()
    size = len(originals) // max(1, len(stuck))
    tries = [*(2**power for power in range(1, size.bit_length()) if 2**power < size), *([size] if size > 1 else [])]
    told = torch.zeros_like(originals.correct) if originals.derived is None else ~originals.derived.isnan()
    judged = originals.correct & told
    local: dict[str, float | Tensor] = {
        "groups": len(stuck),
        "rows": len(originals),
        "stuck": stuck.sum(),
        "rescued": rescued.sum(),
        "reward": originals.reward.sum(),
        "spliced": batch.reward.sum(),
        "correct": originals.correct.sum(),
        "forwards": 0 if originals.forwards is None else originals.forwards.sum(),
        "length": originals.valid.sum(),
        "ended": 0 if originals.ended is None else originals.ended.sum(),
        "hinted": hinted.sum(),
        "scored": batch.valid.sum(),
        "hints": hint.sum(),
        "judged": judged.sum(),
        "derived": 0 if originals.derived is None else (judged & (originals.derived > 0)).sum(),
        **{note: originals.notes.count(note) for note in NOTES},
        **{f"pass@{k}": math.fsum(pass_at_k(count, size, k) for count in right) for k in tries},
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
        "sample/length": total["length"] / total["rows"],
        "hint/rows": total["hinted"] / total["rows"],
        "hint/tokens": total["hints"] / max(1.0, total["scored"]),
        "hint/answer_leak": total["leak"],
        "hint/answer_value_seen": total["seen"],
    }
    if originals.forwards is not None:
        metrics["sample/forwards"] = total["forwards"] / total["rows"]
    if originals.forwards is not None and total["inpainted"]:
        metrics["sample/forwards_inpainted"] = total["spent"] / total["inpainted"]
    metrics |= {f"correct/pass@{k}": total[f"pass@{k}"] / total["groups"] for k in tries}
    if total["judged"]:
        metrics["correct/derived"] = total["derived"] / total["judged"]
    if total["stuck"]:
        metrics["stuck/rescued"] = total["rescued"] / total["stuck"]
    if total["slots"]:
        metrics["hint/shown"] = total["shown"] / total["slots"]  # of the inpainted rows, kept or not
    if originals.ended is not None:
        metrics["sample/eos"] = total["ended"] / total["rows"]
    return metrics | {f"verdict/{note}": total[note] / total["rows"] for note in NOTES if total[note]}
