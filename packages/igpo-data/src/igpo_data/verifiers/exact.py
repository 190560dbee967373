"""The stated answer as text: for tasks whose answers are words, moves or codes."""

from __future__ import annotations

from attrs import frozen

from igpo_data.extraction import extract_answer
from igpo_data.task import Task
from igpo_data.verdict import Verdict


@frozen(kw_only=True)
class Exact:
    """The stated answer must be the task's answer, character by character but for spaces."""

    stated: bool = True
    """Read the answer from \\boxed{}, #### or "The answer is". Otherwise it is the whole completion."""
    ignore_case: bool = False
    """Take capital and small letters as equal."""

    def __call__(self, completion: str, task: Task) -> Verdict:
        """Spaces at the ends do not count, others count as one; an empty answer equals nothing."""
        stated = extract_answer(completion) if self.stated else completion
        if not task.answer.strip() or not (stated and stated.strip()):
            note = "no-answer" if task.answer.strip() else "unverifiable"
            return Verdict(reward=0.0, correct=False, note=note)
        correct = self._spelling(stated) == self._spelling(task.answer)
        return Verdict(reward=float(correct), correct=correct, answer=stated.strip())

    def _spelling(self, text: str) -> str:
        return " ".join((text.casefold() if self.ignore_case else text).split())
