"""How a reference trace is cut into the pieces that hints are made of.

A chunker sees which tokens are hintable and returns half-open spans that tile exactly those.
"""

# ruff: noqa: ARG002 - a plug-in is given all that its kind is, needed or not

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby, pairwise
from random import Random
from typing import TYPE_CHECKING, Literal, Protocol

from attrs import field, frozen, validators

from igpo_rl.records import Problem

if TYPE_CHECKING:
    from torch import Tensor

Span = tuple[int, int]
"""Half-open, in tokens of the trace."""


class Chunker(Protocol):
    """Plug-in kind `chunker`: a frozen attrs class whose fields are its options."""

    def __call__(self, problem: Problem, rng: Random) -> Sequence[Span]:
        """Spans in ascending order that tile the hintable tokens and hold no other."""
        ...


@frozen(kw_only=True)
class RandomLength:
    """Contiguous chunks of random length, cut from left to right (IGPO, arXiv 2509.10396: 5 to 10 tokens)."""

    low: int = field(default=5, validator=validators.ge(1))
    """Fewest tokens in a chunk."""
    high: int = field(default=10, validator=validators.ge(1))
    """Most tokens in a chunk."""
    tail: Literal["own", "join"] = field(default="own", validator=validators.in_(("own", "join")))
    """What becomes of a rest that is shorter than `low`: a chunk of its own, or joined to the one before it."""

    def __attrs_post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError(f"low = {self.low} is above high = {self.high}; chunks have low to high tokens")

    def __call__(self, problem: Problem, rng: Random) -> list[Span]:
        return [chunk for run in hintable_runs(problem) for chunk in self._cut(run, rng)]

    def _cut(self, run: Span, rng: Random) -> list[Span]:
        start, stop = run
        chunks: list[Span] = []
        while start < stop:
            end = min(start + rng.randint(self.low, self.high), stop)
            if end - start < self.low and chunks and self.tail == "join":
                chunks[-1] = (chunks[-1][0], end)
            else:
                chunks.append((start, end))
            start = end
        return chunks


@frozen(kw_only=True)
class Fixed:
    """Contiguous chunks of one length, cut from left to right; the rest is a shorter one."""

    length: int = field(default=8, validator=validators.ge(1))
    """Tokens of a chunk."""

    def __call__(self, problem: Problem, rng: Random) -> list[Span]:
        return [chunk for run in hintable_runs(problem) for chunk in split(run, self.length)]


@frozen(kw_only=True)
class Sentence:
    """One chunk a sentence, or a line where that is shorter."""

    longest: int | None = field(default=None, validator=validators.optional(validators.ge(1)))
    """Most tokens of a chunk; longer sentences are cut. none: no limit."""

    def __call__(self, problem: Problem, rng: Random) -> list[Span]:
        return cut_behind(problem, problem.breaks, self.longest)


@frozen(kw_only=True)
class Step:
    """One chunk a step of the solution: a line, or up to the end of a displayed equation or calculation."""

    longest: int | None = field(default=None, validator=validators.optional(validators.ge(1)))
    """Most tokens of a chunk; longer steps are cut. none: no limit."""

    def __call__(self, problem: Problem, rng: Random) -> list[Span]:
        return cut_behind(problem, problem.steps, self.longest)


def cut_behind(problem: Problem, last: Tensor | None, longest: int | None) -> list[Span]:
    """Hintable spans that end behind each token of `last` (H,) bool, none of them over `longest` tokens."""
    ends = [] if last is None else [index + 1 for index in last.nonzero().flatten().tolist()]
    chunks: list[Span] = []
    for start, stop in hintable_runs(problem):
        bounds = [start, *(end for end in ends if start < end < stop), stop]
        for piece in pairwise(bounds):
            chunks += [piece] if longest is None else split(piece, longest)
    return chunks


def split(span: Span, length: int) -> list[Span]:
    """Pieces of `length` tokens; the last one may be shorter."""
    start, stop = span
    return [(first, min(first + length, stop)) for first in range(start, stop, length)]


def hintable_runs(problem: Problem) -> list[Span]:
    """The longest spans that hold nothing but hintable tokens."""
    return [] if problem.hintable is None else true_runs(problem.hintable)


def true_runs(mask: Tensor) -> list[Span]:
    """The longest spans of True in (H,) bool."""
    runs, start = [], 0
    for value, cells in groupby(mask.tolist()):
        end = start + len(list(cells))
        if value:
            runs.append((start, end))
        start = end
    return runs
