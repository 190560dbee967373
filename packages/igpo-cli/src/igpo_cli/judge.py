"""Verdicts from a verifier that may fail: what it raises costs a row, not the run.

A row without a verdict counts as wrong and is `unverifiable`, so its group never gets hints. A verifier that failed on
the first `PATIENCE` rows and gave no verdict yet is broken; then its error passes.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from attrs import define, field

from igpo_cli.errors import warn
from igpo_data import Task, Verdict, verify
from igpo_rl.guards import name_of

PATIENCE = 64
"""Rows."""


@define
class Judge:
    """Follows `igpo_data.Verifier`, and asks another one."""

    verifier: Any
    say: Callable[[str], None] = warn
    """Told once of each kind of exception."""
    raised: Counter[str] = field(factory=Counter)
    """Rows that each kind of exception has cost."""
    works: bool = False

    def __call__(self, completion: str, task: Task) -> Verdict:
        return self.many([(completion, task)])[0]

    def many(self, pairs: Sequence[tuple[str, Task]]) -> list[Verdict]:
        """Verdicts in order. Where a batch fails, its halves are asked, down to the row that is the reason."""
        try:
            verdicts = [_sound(verdict) for verdict in verify(self.verifier, pairs)]
        except Exception as error:
            if len(pairs) > 1:
                middle = len(pairs) // 2
                return self.many(pairs[:middle]) + self.many(pairs[middle:])
            verdicts = [self._failed(error, task) for _, task in pairs]
            if not self.works and self.raised.total() >= PATIENCE:
                error.add_note(name_of("verifier", self.verifier))
                raise
        else:
            self.works = self.works or bool(pairs)
        return verdicts

    def _failed(self, error: Exception, task: Task) -> Verdict:
        kind = type(error).__name__
        self.raised[kind] += 1
        if self.raised[kind] == 1:
            self.say(
                f"{name_of('verifier', self.verifier)} raised {kind}: {error} (problem '{task.key}'). Such rows count as "
                "wrong, and their groups get no hints"
            )
        return Verdict(reward=0.0, correct=False, note="unverifiable")

    def account(self) -> str | None:
        """How many rows each kind of exception has cost; None where there was none."""
        if not self.raised:
            return None
        counts = ", ".join(f"{kind} {count} times" for kind, count in self.raised.most_common())
        return f"{name_of('verifier', self.verifier)} raised {counts}"


def _sound(verdict: Any) -> Verdict:
    if not isinstance(verdict, Verdict):
        raise TypeError(f"it returned {type(verdict).__name__} instead of a Verdict")
    if not math.isfinite(verdict.reward):
        raise ValueError(f"it returned reward = {verdict.reward}")
    return verdict
