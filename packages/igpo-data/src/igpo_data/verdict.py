"""What a verifier says of one completion: a reward, whether it is correct, and why."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from attrs import frozen

from igpo_data.task import Task


@frozen(kw_only=True)
class Verdict:
    """reward and correct are kept apart: `correct` alone decides whether a group is stuck."""

    reward: float
    correct: bool
    answer: str | None = None
    """The answer that was read from the completion, or None where there was none."""
    note: str = ""
    """Empty for an ordinary verdict; otherwise one word: no-answer, timeout, unverifiable, error, ..."""
    derivation: bool | None = None
    """Whether the working is right too, where the verifier looks at it; it earns nothing by itself."""


class Verifier(Protocol):
    """Plug-in kind `verifier`: a frozen attrs class whose fields are its options.

    May also have `many(pairs) -> list[Verdict]` (slow verifiers with worker processes) and `close()`.
    """

    def __call__(self, completion: str, task: Task) -> Verdict:
        """Judge the text up to the first EOS. Never raises on the text's account, never hangs."""
        ...


def verify(verifier: Verifier, pairs: Sequence[tuple[str, Task]]) -> list[Verdict]:
    """Verdicts for (completion, task) pairs, in order; uses the verifier's `many` where it has one."""
    many = getattr(verifier, "many", None)
    if many is not None:
        return list(many(pairs))
    return [verifier(completion, task) for completion, task in pairs]
