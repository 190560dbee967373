"""Chunks of equal length, as many as one likes.

A chunker cuts the hintable tokens of a worked solution into the pieces that hints are made of. Its spans are half-open,
ascend, and hold every hintable token and no other: the tokens of the answer are not hintable.
"""

from __future__ import annotations

from itertools import pairwise
from random import Random
from typing import TYPE_CHECKING

from attrs import field, frozen, validators

from igpo_rl.hookspecs import hookimpl

if TYPE_CHECKING:
    from igpo_rl import Problem


@frozen(kw_only=True)
class Mine:
    """So many equal parts of every stretch of hintable tokens."""

    parts: int = field(default=4, validator=validators.ge(1))
    """Chunks a stretch; a stretch of fewer tokens has one chunk a token."""

    def __call__(self, problem: Problem, rng: Random) -> list[tuple[int, int]]:  # noqa: ARG002 nothing is drawn
        """Lengths differ by one token at most."""
        from igpo_rl.chunkers import hintable_runs

        spans: list[tuple[int, int]] = []
        for start, stop in hintable_runs(problem):
            parts = min(self.parts, stop - start)
            spans += pairwise([start + (stop - start) * number // parts for number in range(parts + 1)])
        return spans


@hookimpl
def igpo_chunkers() -> dict[str, str]:
    return {"mine": "igpo_cli.templates.chunker:Mine"}
