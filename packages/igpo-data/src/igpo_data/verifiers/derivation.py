"""The whole worked solution must be right, not only its last line.

For tasks whose steps are determined by the prompt (the built-in lists): a right answer after a wrong step is luck or
self-repair, and should not be rewarded.
"""

from __future__ import annotations

from attrs import frozen

from igpo_data.task import Task
from igpo_data.verdict import Verdict


@frozen(kw_only=True)
class Derivation:
    """The completion must be the task's worked solution, word for word."""

    marker: str = "####"
    """What stands before the answer; only to report the answer, the verdict compares all of the text."""

    def __call__(self, completion: str, task: Task) -> Verdict:
        """Compares words, so whitespace does not matter; `unverifiable` where the task has no worked solution."""
        if task.trace is None:
            return Verdict(reward=0.0, correct=False, note="unverifiable")
        _, found, rest = completion.rpartition(self.marker) if self.marker else ("", "", "")
        words = completion.split()
        correct = bool(words) and words == task.trace.split()
        return Verdict(
            reward=float(correct),
            correct=correct,
            answer=" ".join(rest.split()) if found else None,
            note="" if found or correct else "no-answer",
            derivation=correct,
        )
