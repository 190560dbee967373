"""How much of the trace is shown to which of the inpainted rows.

An injection is asked once for every stuck group and answers with a row-by-chunk table, or with None: no second
rollout for this group. `memory` is a plain dict that survives steps and checkpoints.
"""

# ruff: noqa: ARG002 - a plug-in is given all that its kind is, needed or not

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import lazy_loader as lazy
from attrs import field, frozen, validators

from igpo_rl.chunkers import Span
from igpo_rl.records import Problem

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = lazy.load("torch")

Memory = dict[str, Any]
"""Plain values only: it is written to checkpoints."""


class Injection(Protocol):
    """Plug-in kind `injection`: a frozen attrs class whose fields are its options."""

    def __call__(
        self, problem: Problem, chunks: Sequence[Span], rows: int, progress: float, rng: Random, memory: Memory
    ) -> Tensor | None:
        """(rows, K) bool: True where a row is shown a chunk; None: no second rollout. `progress` runs from 0 to 1."""
        ...


@runtime_checkable
class Observer(Protocol):
    """An injection that also learns from what its hints led to."""

    def observe(self, problem: Problem, shown: Tensor, correct: Tensor, memory: Memory) -> None:
        """shown (rows, K) bool, correct (rows,) bool: after the inpainted rows of one group were verified."""
        ...


@frozen(kw_only=True)
class UniformChunks:
    """A random share of the chunks, drawn anew for every row (IGPO, arXiv 2509.10396: eta ~ U[0.2, 0.6])."""

    low: float = field(default=0.2, validator=[validators.ge(0.0), validators.le(1.0)])
    """Least share of the chunks."""
    high: float = field(default=0.6, validator=[validators.ge(0.0), validators.le(1.0)])
    """Largest share of the chunks."""

    def __attrs_post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError(f"low = {self.low} is above high = {self.high}; the share is drawn between them")

    def __call__(
        self, problem: Problem, chunks: Sequence[Span], rows: int, progress: float, rng: Random, memory: Memory
    ) -> Tensor | None:
        """floor(eta * K) chunks a row, at least one unless eta = 0. None where there is nothing to show."""
        if not chunks:
            return None
        shown = torch.zeros(rows, len(chunks), dtype=torch.bool)
        for row in shown:
            eta = rng.uniform(self.low, self.high)
            row[rng.sample(range(len(chunks)), hint_count(eta, len(chunks)))] = True
        return shown


@frozen(kw_only=True)
class Full:
    """Every hintable chunk is shown to every row (eta = 1)."""

    def __call__(
        self, problem: Problem, chunks: Sequence[Span], rows: int, progress: float, rng: Random, memory: Memory
    ) -> Tensor | None:
        return torch.ones(rows, len(chunks), dtype=torch.bool) if chunks else None


@frozen(kw_only=True)
class Resample:
    """A second rollout without any hint (eta = 0): the baseline of equal cost."""

    def __call__(
        self, problem: Problem, chunks: Sequence[Span], rows: int, progress: float, rng: Random, memory: Memory
    ) -> Tensor | None:
        return torch.zeros(rows, len(chunks), dtype=torch.bool)


@frozen(kw_only=True)
class NoInjection:
    """No second rollout: plain GRPO."""

    def __call__(
        self, problem: Problem, chunks: Sequence[Span], rows: int, progress: float, rng: Random, memory: Memory
    ) -> Tensor | None:
        return None


def hint_count(eta: float, chunks: int) -> int:
    """floor(eta * chunks), at least one when both are above zero; exact where eta * chunks is a whole number."""
    return max(math.floor(eta * chunks + 1e-9), 1) if eta > 0 and chunks > 0 else 0
