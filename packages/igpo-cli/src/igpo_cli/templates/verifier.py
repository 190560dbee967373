"""Words in their places, with credit for a part of them.

A verifier says whether a completion solves its task. `correct` decides whether a group is stuck and gets hints; `reward`
is what advantages are made of. It reads whatever a model writes, so it must neither raise nor hang.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import field, frozen, validators

from igpo_data.hookspecs import hookimpl

if TYPE_CHECKING:
    from igpo_data import Task, Verdict


@frozen(kw_only=True)
class Mine:
    """The last words must be the answer's; a part of them in the right places earns a part."""

    partial: float = field(default=0.5, validator=[validators.ge(0.0), validators.lt(1.0)])
    """What almost all words would earn; all of them earn 1."""

    def __call__(self, completion: str, task: Task) -> Verdict:
        """Reward: 1 for all words, else `partial` times the share of words that stand right."""
        from igpo_data import Verdict

        wanted, words = task.answer.split(), completion.split()
        if not wanted or not words:
            return Verdict(reward=0.0, correct=False, note="no-answer" if wanted else "unverifiable")
        stated = words[-len(wanted) :]
        correct = stated == wanted
        right = sum(one == other for one, other in zip(reversed(stated), reversed(wanted), strict=False))
        reward = 1.0 if correct else self.partial * right / len(wanted)
        return Verdict(reward=reward, correct=correct, answer=" ".join(stated))


@hookimpl
def igpo_verifiers() -> dict[str, str]:
    return {"mine": "igpo_cli.templates.verifier:Mine"}
