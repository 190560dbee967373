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

from attrs import field, frozen, validators

from igpo_rl import later
from igpo_rl.chunkers import Span
from igpo_rl.injections import SHARE, Memory, show_each
from igpo_rl.records import Problem

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = later.load("torch")

SLOPE = 0.05  # shares over which a problem's chance of a rescue turns from low to high
RUN_SLOPE = 0.15  # the same for the run: over many problems the chance rises more slowly than over one
SPREAD = 0.3  # standard deviation, in shares, of problems around the run's threshold
LAPSE = 0.04  # chance of a rescue that is owed to luck, and of a failure that is
ONE = ((1 - LAPSE, 1.0),)  # a problem's chance of a rescue by all hints, and how likely that is: held to be rescuable
MANY = ((0.24, 1.0), (0.48, 1.0), (0.72, 1.0), (1 - LAPSE, 9.0))  # but some problems of a run may be beyond all hints
POOL = 8  # the run's threshold looks back on so many times more outcomes than a problem's


@frozen(kw_only=True)
class Adaptive:
    """The smallest share of hints that still rescues a group, learned for the run and for every problem that returns."""

    target: float = field(default=0.8, validator=[validators.ge(0.2), validators.le(0.9)])
    """Share that shall be rescued of the stuck groups that hints can rescue at all; more of them need more hints."""
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
        run = threshold(memory.get("run", []), self.start, self.target, RUN_SLOPE, MANY)
        return run, threshold(memory.get("problems", {}).get(key, []), run, self.target, SLOPE, ONE)


def _keep(outcomes: list[list[float]], outcome: list[float], most: int) -> None:
    outcomes.append(outcome)
    del outcomes[:-most]


def threshold(
    outcomes: Sequence[Sequence[float]],
    prior: float,
    target: float,
    slope: float,
    ceilings: Sequence[tuple[float, float]],
) -> float:
    """The share that is enough, given [share, rescued] pairs: median of a belief around `prior`.

    Enough is where rescues are `target` times as likely as all hints make them. How likely that is, is a second unknown
    of the run's belief: without it, problems beyond all hints would ask for ever more of them.
    """
    # The belief reaches beyond 0 and 1, so that its median can stand on either.
    places = torch.arange(-0.3, 1.31, 0.02, dtype=torch.float64)
    most, faith = torch.tensor(ceilings, dtype=torch.float64).T[:, :, None]
    belief = faith.log() - ((places - prior) / SPREAD).square() / 2
    if outcomes:
        shares, rescued = torch.tensor(outcomes, dtype=torch.float64).T[:, :, None, None]
        enough = torch.logit((target * most - LAPSE) / (most - LAPSE))
        chance = torch.sigmoid((shares - places) / slope + enough) * (most - LAPSE) + LAPSE
        belief = belief + chance.log().where(rescued > 0, (1 - chance).log()).sum(0)
    below = (belief - belief.max()).exp().sum(0).cumsum(0)
    return min(1.0, max(0.0, float(places[torch.searchsorted(below, below[-1] / 2)])))
