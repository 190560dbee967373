"""Where hint tokens stand in the completion: trace token i at completion slot i.

An overlay is (rows, L) long with -1 where the slot is left blank.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import lazy_loader as lazy

from igpo_rl.chunkers import Span
from igpo_rl.records import Problem

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
