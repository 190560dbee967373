"""Rows shared out evenly over ranks: what `exchange` of `IGPO.collect` is in a job of several processes.

How many groups are stuck differs from rank to rank, and without this all would wait for the one that has most. Only
surplus rows travel; their results come back to where they came from, so nobody downstream notices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from attrs import evolve, frozen

from igpo_rl import later
from igpo_rl.records import Play, Problem, Rollouts
from igpo_rl.splice import stack

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = later.load("torch")


@frozen
class Move:
    """Rows `first` to `last` (excluded) of rank `source`, played by rank `target`."""

    source: int
    target: int
    first: int
    last: int


def moves(counts: Sequence[int]) -> list[Move]:
    """Rows a rank -> the fewest moves of rows after which counts differ by one at most; a rank's last rows go."""
    share, rest = divmod(sum(counts), len(counts))
    fullest = sorted(range(len(counts)), key=lambda rank: -counts[rank])
    wanted = [share] * len(counts)
    for rank in fullest[:rest]:  # one more where there are most already
        wanted[rank] += 1
    left = [count - want for count, want in zip(counts, wanted, strict=True)]
    found = []
    target = 0
    for source in range(len(counts)):
        while left[source] > 0:
            while left[target] >= 0:
                target += 1
            rows = min(left[source], -left[target])
            last = wanted[source] + left[source]
            found.append(Move(source, target, last - rows, last))
            left[source] -= rows
            left[target] += rows
    return found


@frozen
class Exchange:
    """Wraps a `Play` so that all ranks play equally many rows, and each gets back its own."""

    gather: Callable[[Any], list[Any]]
    """A picklable object of this rank -> those of all ranks, by rank. Every rank calls it."""
    rank: int

    def __call__(self, play: Play) -> Play:
        """The same play. A row's result depends on its problem, overlay and seed alone, so it does not matter who plays it."""

        def shared(problems: Sequence[Problem], overlay: Tensor | None, seeds: Tensor) -> Rollouts:
            counts = self.gather(len(problems))
            plan = moves(counts)
            if not plan:
                return play(problems, overlay, seeds)
            rows = _Rows(problems, overlay, seeds)
            mine = [move for move in plan if move.source == self.rank]
            guests = [move for move in plan if move.target == self.rank]
            sent = self.gather({move: rows.part(move.first, move.last).bare() for move in mine})
            kept = rows.part(0, min((move.first for move in mine), default=len(problems)))
            here = kept.and_more([sent[move.source][move] for move in guests])
            played = play(here.problems, here.overlay, here.seeds)
            ends = list(accumulate((move.last - move.first for move in guests), initial=len(kept.problems)))
            done = {move: _part(played, ends[place], ends[place + 1]) for place, move in enumerate(guests)}
            back = self.gather({move: _to(part, torch.device("cpu")) for move, part in done.items()})
            parts = [_part(played, 0, len(kept.problems))]
            for move in sorted(mine, key=lambda move: move.first):
                parts.append(_to(back[move.target][move], played.completion.device))
            result = reduce(stack, [part for part in parts if len(part)] or parts[:1])
            return _narrow(
                evolve(result, metrics=played.metrics), max((len(problem.prompt) for problem in problems), default=1)
            )

        return shared


@frozen(eq=False)
class _Rows:
    """What a `Play` is given."""

    problems: Sequence[Problem]
    overlay: Tensor | None
    seeds: Tensor

    def part(self, first: int, last: int) -> _Rows:
        overlay = None if self.overlay is None else self.overlay[first:last]
        return _Rows(self.problems[first:last], overlay, self.seeds[first:last])

    def bare(self) -> _Rows:
        """Without what a play does not need of a problem, on the CPU."""
        problems = [Problem(key=problem.key, prompt=problem.prompt.cpu()) for problem in self.problems]
        return _Rows(problems, None if self.overlay is None else self.overlay.cpu(), self.seeds.cpu())

    def and_more(self, others: Sequence[_Rows]) -> _Rows:
        everything = [self, *others]
        overlays = [rows.overlay for rows in everything if rows.overlay is not None]
        return _Rows(
            [problem for rows in everything for problem in rows.problems],
            torch.cat([overlay.to(overlays[0]) for overlay in overlays]) if overlays else None,
            torch.cat([rows.seeds.to(self.seeds) for rows in everything]),
        )


def _part(rollouts: Rollouts, first: int, last: int) -> Rollouts:
    return rollouts.take(torch.arange(first, last, device=rollouts.completion.device))


def _to(rollouts: Rollouts, device: torch.device) -> Rollouts:
    columns = {name: column.to(device) for name, column in rollouts.columns().items() if not isinstance(column, tuple)}
    return evolve(rollouts, **columns)


def _narrow(rollouts: Rollouts, width: int) -> Rollouts:
    """Without the padding that guests with longer prompts have brought."""
    more = rollouts.prompt.shape[1] - width
    if more <= 0:
        return rollouts
    return evolve(rollouts, prompt=rollouts.prompt[:, more:], prompt_valid=rollouts.prompt_valid[:, more:])
