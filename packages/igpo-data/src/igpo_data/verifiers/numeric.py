"""The stated answer as a number within a tolerance: for measured and rounded values."""

from __future__ import annotations

from fractions import Fraction

from attrs import field, frozen, validators

from igpo_data.answers import read_number
from igpo_data.extraction import extract_answer
from igpo_data.task import Task
from igpo_data.verdict import Verdict
from igpo_data.verifiers.math import reference


@frozen(kw_only=True)
class Numeric:
    """The stated number must lie within a tolerance of the answer."""

    tolerance: float = field(default=1e-6, validator=[validators.ge(0.0), validators.lt(1.0)])
    """Largest distance as a share of the answer (0 only accepts the very number)."""

    def __call__(self, completion: str, task: Task) -> Verdict:
        """Numbers as in `igpo_data.quantities`; a number with percent sign is also its hundredth. No algebra."""
        gold, stated = read_number(reference(task.answer)), extract_answer(completion)
        if gold is None or stated is None:
            return Verdict(reward=0.0, correct=False, answer=stated, note="no-answer" if gold else "unverifiable")
        given = read_number(stated)
        correct = given is not None and not (gold.unit and given.unit and gold.unit != given.unit)
        if given is not None and correct:
            numbers = [(gold.value, given.value)]
            if gold.percent != given.percent:
                numbers.append((gold.share, given.share))
            correct = any(abs(left - right) <= Fraction(str(self.tolerance)) * abs(left) for left, right in numbers)
        return Verdict(reward=float(correct), correct=correct, answer=stated)
