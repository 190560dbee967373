"""A pattern of the user's in the completion: for formats and for answers with a form of their own.

Backtracking patterns can run for ever on text made for it, and the text is a model's. So they run in killable workers:
a linear-time engine would take look-around and back-references away, which is what format rules are made of.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from attrs import Attribute, field, frozen, validators

from igpo_data.pool import Pool, Reply, shared_pool
from igpo_data.task import Task
from igpo_data.verdict import Verdict

LONGEST = 100_000
# Characters of a completion; beyond it the verdict is wrong, with the note "too-long".
ANSWER = "{answer}"
SHOWN = 200
# Characters of what was found that a verdict shows.


def _pattern(_: object, attribute: Attribute[str], value: str) -> None:
    try:  # with some answer: tasks without one are never searched
        found = re.search(value.replace(ANSWER, "42"), "")
    except re.error as error:
        raise ValueError(f"{attribute.name} = {value!r} is no regular expression: {error}") from error
    if found:
        raise ValueError(
            f"{attribute.name} = {value!r} is found in any text; let it ask for something, as in '#### {ANSWER}$'"
        )


@frozen(kw_only=True)
class Regex:
    """A regular expression that must be found in the completion; {answer} in it stands for the task's answer."""

    pattern: str = field(validator=[validators.instance_of(str), _pattern])
    """Python's syntax, as in '#### {answer}$'. (?s), (?i), (?m) in front set flags."""
    timeout: float = field(default=1.0, validator=validators.gt(0.0))
    """Processor seconds for one search. Beyond it the verdict is wrong, with the note "timeout"."""
    workers: int = field(default=2, validator=validators.ge(1))
    """Worker processes of a machine at most, which the processes of a job share."""

    def __call__(self, completion: str, task: Task) -> Verdict:
        """Judges one completion; `many` is faster for several."""
        return self.many([(completion, task)])[0]

    def many(self, pairs: Sequence[tuple[str, Task]]) -> list[Verdict]:
        """Verdicts in order, with what was found as answer. Notes: no-answer, unverifiable, too-long, timeout, memory."""
        known = [self._before(completion, task) for completion, task in pairs]
        asked = [
            (self.pattern.replace(ANSWER, re.escape(task.answer.strip())), completion)
            for (completion, task), reply in zip(pairs, known, strict=True)
            if reply is None
        ]
        replies = iter(self._pool().check(asked) if asked else ())
        return [
            _verdict(completion, next(replies) if reply is None else reply)
            for (completion, _), reply in zip(pairs, known, strict=True)
        ]

    def _before(self, completion: str, task: Task) -> Reply | None:
        """What can be said without a search."""
        if ANSWER in self.pattern and not task.answer.strip():
            return Reply(note="unverifiable")
        if not completion.strip():
            return Reply(note="no-answer")
        return Reply(note="too-long") if len(completion) > LONGEST else None

    def close(self) -> None:
        """Ends the worker processes; the next search starts new ones."""
        self._pool().close()

    def _pool(self) -> Pool:
        return shared_pool("search", self.workers, self.timeout, 1024)


def _verdict(completion: str, reply: Reply) -> Verdict:
    if reply.value is None:
        return Verdict(reward=0.0, correct=False, note=reply.note or "no-answer")
    start, end = reply.value
    return Verdict(reward=1.0, correct=True, answer=completion[start:end][:SHOWN])
