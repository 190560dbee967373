"""A verifier that checks a property instead of comparing with a reference: many completions are correct.

"Pay 41 cents" is solved by 25 + 10 + 5 + 1, but also by 10 + 10 + 10 + 10 + 1; the shorter one earns more.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from attrs import Attribute, field, frozen

from igpo_data.verdict import Verdict

if TYPE_CHECKING:
    from igpo_data.task import Task


def _positive(_: object, attribute: Attribute[tuple[int, ...]], value: tuple[int, ...]) -> None:
    if not value or min(value) < 1:
        raise ValueError(
            f"{attribute.name} = {value} holds no coins or one below 1. Name positive values, such as 1, 5, 10."
        )


@frozen(kw_only=True)
class Change:
    """Coins that add up to the task's answer; fewer coins earn more reward."""

    coins: tuple[int, ...] = field(default=(1, 5, 10, 25), validator=_positive)
    """Values of the coins that exist."""

    def __call__(self, completion: str, task: Task) -> Verdict:
        """Reward: the fewest coins that do it over the coins used, 0 if the sum is wrong. Every number is read as a coin."""
        if not re.fullmatch(r"[0-9]{1,6}", task.answer):
            return Verdict(reward=0.0, correct=False, note="unverifiable")
        shown = re.findall(r"[0-9]+", completion)
        if not shown:
            return Verdict(reward=0.0, correct=False, note="no-answer")
        answer = " + ".join(shown)
        values = {str(coin): coin for coin in self.coins}
        if not values.keys() >= set(shown):
            return Verdict(reward=0.0, correct=False, answer=answer, note="no-coin")
        if sum(values[coin] for coin in shown) != int(task.answer):
            return Verdict(reward=0.0, correct=False, answer=answer)
        return Verdict(reward=self.fewest(int(task.answer)) / len(shown), correct=True, answer=answer)

    def fewest(self, amount: int) -> float:
        """The least number of coins that pay `amount`, infinity where these coins cannot."""
        least = [0.0]
        for paid in range(1, amount + 1):
            least.append(1 + min((least[paid - coin] for coin in self.coins if coin <= paid), default=math.inf))
        return least[amount]
