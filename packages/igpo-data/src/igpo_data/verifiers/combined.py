"""Several verifiers as one: an answer that must be right *and* in a given form, or a reward made of parts.

`reward` and `correct` stay apart: a reward for form may be earned by a wrong answer, and a group whose rows earn it is
still stuck.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from attrs import Attribute, field, frozen, validators

from igpo_data.task import Task
from igpo_data.verdict import Verdict, Verifier, verify

Pairs = Sequence[tuple[str, Task]]


@frozen(kw_only=True)
class AllOf:
    """Correct is what all of several verifiers find correct."""

    parts: tuple[Verifier, ...] = field(converter=tuple, validator=validators.min_len(1))
    """The verifiers; in a file a list of tables, [[verifier.parts]], each with its name."""

    def __call__(self, completion: str, task: Task) -> Verdict:
        """Judges one completion; `many` is faster for several."""
        return self.many([(completion, task)])[0]

    def many(self, pairs: Pairs) -> list[Verdict]:
        """Reward 1 where all are correct. Answer and note are those of the first part that has one."""
        verdicts = []
        for row in _judged(self.parts, pairs):
            correct = all(verdict.correct for verdict in row)
            verdicts.append(_combined(row, row, float(correct), correct))
        return verdicts

    def close(self) -> None:
        """Ends the worker processes of the parts."""
        _close(self.parts)


def _deciding(self: Weighted, attribute: Attribute[tuple[int, ...]], value: tuple[int, ...]) -> None:
    if not set(value) <= set(range(len(self.parts))):
        raise ValueError(f"{attribute.name} = {list(value)} must be numbers of parts, 0 to {len(self.parts) - 1}")


def _weights(self: Weighted, attribute: Attribute[tuple[float, ...]], value: tuple[float, ...]) -> None:
    if len(value) != len(self.parts) or not all(map(math.isfinite, value)):
        raise ValueError(
            f"{attribute.name} = {list(value)} must be {len(self.parts)} finite numbers, one for each part"
        )


@frozen(kw_only=True)
class Weighted:
    """A reward that is the weighted sum of several verifiers' rewards; correct is what the deciding ones find correct."""

    parts: tuple[Verifier, ...] = field(converter=tuple, validator=validators.min_len(1))
    """The verifiers; in a file a list of tables, [[verifier.parts]], each with its name."""
    weights: tuple[float, ...] = field(converter=tuple, validator=_weights)
    """One weight for each part, in the same order."""
    decide: tuple[int, ...] = field(default=(), converter=tuple, validator=_deciding)
    """Which parts must be correct for `correct`, counted from 0; all of them where none is named."""

    def __call__(self, completion: str, task: Task) -> Verdict:
        """Judges one completion; `many` is faster for several."""
        return self.many([(completion, task)])[0]

    def many(self, pairs: Pairs) -> list[Verdict]:
        """The weights are taken as they are. Answer and note are those of the first deciding part that has one."""
        verdicts = []
        for row in _judged(self.parts, pairs):
            deciding = [row[number] for number in self.decide] or row
            reward = math.fsum(weight * verdict.reward for weight, verdict in zip(self.weights, row, strict=True))
            correct = all(verdict.correct for verdict in deciding)
            verdicts.append(_combined(row, deciding, reward, correct))
        return verdicts

    def close(self) -> None:
        """Ends the worker processes of the parts."""
        _close(self.parts)


def _judged(parts: Sequence[Verifier], pairs: Pairs) -> list[list[Verdict]]:
    """The verdicts of all parts for each pair."""
    return [list(row) for row in zip(*(verify(part, pairs) for part in parts), strict=True)]


def _combined(row: Sequence[Verdict], deciding: Sequence[Verdict], reward: float, correct: bool) -> Verdict:
    """One verdict; it is unverifiable where any deciding part is, so that a group never looks stuck on that account."""
    notes = [verdict.note for verdict in deciding if verdict.note]
    return Verdict(
        reward=reward,
        correct=correct,
        answer=next((verdict.answer for verdict in deciding if verdict.answer is not None), None),
        note="unverifiable" if "unverifiable" in notes else notes[0] if notes and not correct else "",
        derivation=next((verdict.derivation for verdict in row if verdict.derivation is not None), None),
    )


def _close(parts: Sequence[Verifier]) -> None:
    for part in parts:
        close = getattr(part, "close", None)
        if close is not None:
            close()
