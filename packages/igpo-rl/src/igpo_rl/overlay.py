"""Where hint tokens stand in the completion: trace token i at completion slot i. And what was shown in the end.

An overlay is (rows, L) long with -1 where the slot is left blank. `leaked` and `values_seen` look at the rows that
came back, not at the plan, so that they also catch a chunker, an injection or a player that shows too much.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import lazy_loader as lazy

from igpo_rl.chunkers import Span, true_runs
from igpo_rl.records import Problem, Rollouts

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = lazy.load("torch")

BLANK = -1


def within(chunks: Sequence[Span], width: int) -> list[Span]:
    """The chunks that begin inside a completion of this width: those wholly beyond it can show nothing and do not count."""
    return [chunk for chunk in chunks if chunk[0] < width]


def place(problem: Problem, chunks: Sequence[Span], shown: Tensor, width: int) -> Tensor:
    """shown (rows, K) bool -> (rows, width) long, position-aligned (IGPO, arXiv 2509.10396); tokens past `width` are dropped."""
    overlay = torch.full((len(shown), width), BLANK, dtype=torch.long)
    if problem.trace is None:
        return overlay
    trace = problem.trace[:width]
    piece = torch.full((len(trace),), -1, dtype=torch.long)
    for index, (start, end) in enumerate(chunks):
        piece[start:end] = index
    visible = shown[:, piece.clamp(min=0)] & (piece >= 0) if len(chunks) else shown.new_zeros(len(shown), len(trace))
    overlay[:, : len(trace)] = trace.where(visible, BLANK)
    return overlay


def check_shown(rollouts: Rollouts, overlay: Tensor) -> None:
    """The given cells of an inpainted batch are those of its overlay, token by token; otherwise ValueError."""
    given = overlay >= 0
    if not torch.equal(rollouts.given, given) or not torch.equal(rollouts.completion[given], overlay[given]):
        raise ValueError(
            f"play changed the hints: {int(rollouts.given.sum())} given tokens came back for {int(given.sum())} hint tokens; "
            "hints stay fixed through denoising, and `given` marks exactly them"
        )


def leaked(given: Tensor, problems: Sequence[Problem]) -> int:
    """How many given tokens (B, L), one problem a row, are not hintable: 0 unless a plug-in shows what it must not."""
    return int((given & ~_aligned([problem.hintable for problem in problems], given)).sum())


def values_seen(given: Tensor, problems: Sequence[Problem]) -> int:
    """In how many rows the hints show a whole occurrence of the answer's value (one run of `answer_value`)."""
    seen = 0
    for row, problem in zip(given, problems, strict=True):
        runs = [] if problem.answer_value is None else true_runs(problem.answer_value)
        seen += any(end <= len(row) and bool(row[start:end].all()) for start, end in runs)
    return seen


def _aligned(masks: Sequence[Tensor | None], like: Tensor) -> Tensor:
    """(H,) masks of the traces, a row each -> (B, L) at the slots where the trace tokens stand."""
    table = torch.zeros_like(like)
    for row, mask in zip(table, masks, strict=True):
        if mask is not None:
            shown = mask[: len(row)]
            row[: len(shown)] = shown.to(row.device)
    return table
