"""How much of the trace is shown to which of the inpainted rows.

An injection is asked once for every stuck group and answers with a row-by-chunk table, or with None: no second
rollout for this group. `memory` is a plain dict that survives steps and checkpoints.
"""

# ruff: noqa: ARG002 - a plug-in is given all that its kind is, needed or not

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from random import Random
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from attrs import field, frozen, validators

from igpo_rl import later
from igpo_rl.chunkers import Span
from igpo_rl.records import Problem

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = later.load("torch")

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

    def observe(self, key: str, shown: Tensor, correct: Tensor, memory: Memory) -> None:
        """shown (rows, K) bool, correct (rows,) bool: after the inpainted rows of one group, of any rank, were verified.

        Called for the groups of all ranks in the same order on every rank, so that all keep the same memory; the
        problem of another rank is known by its key alone.
        """
        ...


SHARE = [validators.ge(0.0), validators.le(1.0)]
Decay = Literal["none", "linear", "cosine"]
DECAY = validators.in_(("none", "linear", "cosine"))


@frozen(kw_only=True)
class Shares:
    """How large a share of the chunks is shown: drawn anew for every row, from a range that may shrink during training."""

    low: float = field(default=0.2, validator=SHARE)
    """Least share of the chunks."""
    high: float = field(default=0.6, validator=SHARE)
    """Largest share of the chunks."""
    decay: Decay = field(default="none", validator=DECAY)
    """How both fall in the course of training."""
    final: float = field(default=0.0, validator=SHARE)
    """What is left of them at the end, as a share of what they were."""

    def __attrs_post_init__(self) -> None:
        check_range(self.low, self.high)

    def draw_count(self, chunks: int, progress: float, rng: Random) -> int:
        """floor(eta * chunks) with eta ~ U[low, high] times what decay leaves of it; at least one unless eta = 0."""
        left = {"none": 1.0, "linear": 1.0 - progress, "cosine": (1.0 + math.cos(math.pi * progress)) / 2}[self.decay]
        return hint_count(rng.uniform(self.low, self.high) * (self.final + (1.0 - self.final) * left), chunks)


@frozen(kw_only=True)
class UniformChunks(Shares):
    """A random share of the chunks, drawn anew for every row (IGPO, arXiv 2509.10396: eta ~ U[0.2, 0.6])."""

    def __call__(
        self, problem: Problem, chunks: Sequence[Span], rows: int, progress: float, rng: Random, memory: Memory
    ) -> Tensor | None:
        """Any chunks of the row's share. None where there is nothing to show."""
        return show_each(chunks, rows, lambda row: rng.sample(row, self.draw_count(len(row), progress, rng)))


@frozen(kw_only=True)
class Prefix(Shares):
    """The beginning of the solution, up to a share that is drawn anew for every row."""

    def __call__(
        self, problem: Problem, chunks: Sequence[Span], rows: int, progress: float, rng: Random, memory: Memory
    ) -> Tensor | None:
        """The first chunks of each row. None where there is nothing to show."""
        return show_each(chunks, rows, lambda row: row[: self.draw_count(len(row), progress, rng)])


@frozen(kw_only=True)
class Suffix(Shares):
    """The end of the solution before the answer, from a share on that is drawn anew for every row."""

    def __call__(
        self, problem: Problem, chunks: Sequence[Span], rows: int, progress: float, rng: Random, memory: Memory
    ) -> Tensor | None:
        """The last chunks of each row. None where there is nothing to show."""
        return show_each(chunks, rows, lambda row: row[len(row) - self.draw_count(len(row), progress, rng) :])


@frozen(kw_only=True)
class RevealLast:
    """int(K (1 - eta)) chunks are hidden; the others and always the last one are shown (the public code of IGPO).

    There the last chunk holds the answer; here it is the last one before the answer.
    """

    low: float = field(default=0.2, validator=SHARE)
    """Least eta."""
    high: float = field(default=0.6, validator=SHARE)
    """Largest eta."""

    def __attrs_post_init__(self) -> None:
        check_range(self.low, self.high)

    def __call__(
        self, problem: Problem, chunks: Sequence[Span], rows: int, progress: float, rng: Random, memory: Memory
    ) -> Tensor | None:
        """None where there is nothing to show."""

        def shown(row: Sequence[int]) -> set[int]:
            hidden = int(len(row) * (1 - rng.uniform(self.low, self.high)) + 1e-9)
            return set(row) - set(rng.sample(row[:-1], min(hidden, len(row) - 1)))

        return show_each(chunks, rows, shown)


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


def check_range(low: float, high: float) -> None:
    if low > high:
        raise ValueError(f"low = {low} is above high = {high}; the share is drawn between them")


def show_each(chunks: Sequence[Span], rows: int, choose: Callable[[Sequence[int]], Iterable[int]]) -> Tensor | None:
    """A row-by-chunk table of what `choose` picks from all chunks' indices, asked row by row; None without chunks."""
    if not chunks:
        return None
    shown = torch.zeros(rows, len(chunks), dtype=torch.bool)
    for row in shown:
        row[list(choose(range(len(chunks))))] = True
    return shown


def hint_count(eta: float, chunks: int) -> int:
    """floor(eta * chunks), at least one when both are above zero; exact where eta * chunks is a whole number."""
    return max(math.floor(eta * chunks + 1e-9), 1) if eta > 0 and chunks > 0 else 0
