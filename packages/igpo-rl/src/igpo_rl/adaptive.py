"""As few hints as still rescue a stuck group, found problem by problem from what earlier hints led to.

A problem's threshold is the share of hints that rescues it at the target rate. What past outcomes say about it is a
belief over shares, as in adaptive psychophysics (QUEST, Watson and Pelli, 1983); its median is what is shown next.
"""

# ruff: noqa: ARG002 - a plug-in is given all that its kind is, needed or not

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random
from typing import TYPE_CHECKING

import lazy_loader as lazy
from attrs import field, frozen, validators

from igpo_rl.chunkers import Span
from igpo_rl.injections import SHARE, Memory, show_each
from igpo_rl.records import Problem

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = lazy.load("torch")

SLOPE = 0.05  # shares over which a problem's chance of a rescue turns from low to high
POPULATION_SLOPE = 0.15  # the same for the run: over many problems the chance rises more slowly than over one
SPREAD = 0.3  # standard deviation, in shares, of problems around the run's threshold
LAPSE = 0.04  # outcomes that say nothing: whatever the share, a rescue is at least this likely, and at most 1 minus it
POOL = 8  # the run's threshold looks back on so many times more outcomes than a problem's


@frozen(kw_only=True)
class Adaptive:
    """The smallest share of hints that still rescues a group, learned for the run and for every problem that returns."""

    target: float = field(default=0.8, validator=[validators.ge(0.1), validators.le(0.9)])
    """Share of stuck groups that shall be rescued; more of them need more hints."""
    least: int = field(default=1, validator=validators.ge(1))
    """Correct rows from which a group counts as rescued."""
    start: float = field(default=0.4, validator=SHARE)
    """Share of the chunks that is shown before anything is known."""
    window: int = field(default=16, validator=validators.ge(1))
    """Past outcomes of a problem that count; older ones tell of a policy that has changed since."""

    def __call__(
        self, problem: Problem, chunks: Sequence[Span], rows: int, progress: float, rng: Random, memory: Memory
    ) -> Tensor | None:
        """Random chunks, as many as the problem's share of K says; a fraction of a chunk is shown to as many rows.

        None where there is nothing to show.
        """
        wanted = self.share(problem.key, memory) * len(chunks)
        return show_each(chunks, rows, lambda row: rng.sample(row, min(math.floor(wanted + rng.random()), len(row))))

    def observe(self, key: str, shown: Tensor, correct: Tensor, memory: Memory) -> None:
        """Remember the share that a group was shown, and whether that rescued it."""
        share, rescued = float(shown.double().mean()), float(correct.sum() >= self.least)
        run, own = self._thresholds(key, memory)
        # To the run a problem that is known as harder or easier says what an average one would have done with less or more.
        _keep(memory.setdefault("run", []), [share - own + run, rescued], POOL * self.window)
        _keep(memory.setdefault("problems", {}).setdefault(key, []), [share, rescued], self.window)

    def share(self, key: str, memory: Memory) -> float:
        """What would be shown now: the run's threshold for a new problem, and from there its own."""
        return self._thresholds(key, memory)[1]

    def _thresholds(self, key: str, memory: Memory) -> tuple[float, float]:
        run = threshold(memory.get("run", []), self.start, self.target, POPULATION_SLOPE)
        return run, threshold(memory.get("problems", {}).get(key, []), run, self.target, SLOPE)


def _keep(outcomes: list[list[float]], outcome: list[float], most: int) -> None:
    outcomes.append(outcome)
    del outcomes[:-most]


def threshold(outcomes: Sequence[Sequence[float]], prior: float, target: float, slope: float) -> float:
    """The share at which rescues happen at the target rate: median of a belief around `prior`, given [share, rescued] pairs."""
    # The belief reaches beyond 0 and 1, so that its median can stand on either.
    places = torch.arange(-0.3, 1.31, 0.02, dtype=torch.float64)
    belief = -((places - prior) / SPREAD).square() / 2
    if outcomes:
        shares, rescued = torch.tensor(outcomes, dtype=torch.float64).T
        at_target = math.log((target - LAPSE) / (1 - LAPSE - target))
        chance = torch.sigmoid((shares[:, None] - places) / slope + at_target) * (1 - 2 * LAPSE) + LAPSE
        belief += chance.log().where(rescued[:, None] > 0, (1 - chance).log()).sum(0)
    below = (belief - belief.max()).exp().cumsum(0)
    return min(1.0, max(0.0, float(places[torch.searchsorted(below, below[-1] / 2)])))
