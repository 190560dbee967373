"""Mathematical answers: what the completion finally states, compared exactly, with algebra only where it takes algebra.

The published trainers compare strings or hand whole texts to a computer algebra system; the first makes false all-wrong
groups and so needless hints, the second believes any number in the text and can hang.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from attrs import field, frozen, validators

from igpo_data.answers import algebra, equal
from igpo_data.extraction import extract_answer
from igpo_data.pool import Pool, Reply, shared_pool
from igpo_data.task import Task
from igpo_data.verdict import Verdict

LONGEST = 400
# Characters of an answer that is given to algebra.
REMEMBERED = 8_192
# Characters of a completion whose verdict is kept, for when it comes again.


@frozen(kw_only=True)
class Math:
    """Mathematical equality of the last \\boxed{} or other final statement with the answer.

    Numbers, fractions, units, percent, names, tuples and sets are compared in process; what is left goes to math-verify
    in worker processes with limits of time and memory. Nothing that a model wrote is ever evaluated as Python.
    """

    timeout: float = field(default=1.0, validator=validators.gt(0.0))
    """Processor seconds for one comparison by algebra. Beyond it the verdict is wrong, with the note "timeout"."""
    workers: int = field(default=4, validator=validators.ge(1))
    """Worker processes of a machine at most, shared by a job's processes. None starts before an answer takes algebra."""
    memory: int = field(default=1024, validator=validators.ge(256))
    """Memory limit of a worker process in MiB."""

    def __call__(self, completion: str, task: Task) -> Verdict:
        """Judges one completion; `many` is faster for several."""
        return self.many([(completion, task)])[0]

    def many(self, pairs: Sequence[tuple[str, Task]]) -> list[Verdict]:
        """Verdicts in order; comparisons that take algebra run side by side, identical ones once.

        Notes: no-answer (none is stated), unverifiable (the task has none), too-long, timeout, memory, error.
        """
        settled = [
            (_settle if len(completion) <= REMEMBERED else _settle.__wrapped__)(completion, task.answer)
            for completion, task in pairs
        ]
        undecided = [found for found in settled if not isinstance(found, Verdict)]
        questions = [(algebra(gold), algebra(given)) for gold, given in undecided]
        replies = iter(self._pool().check(questions) if questions else ())
        return [found if isinstance(found, Verdict) else _replied(found[1], next(replies)) for found in settled]

    def close(self) -> None:
        """Ends the worker processes; the next comparison by algebra starts new ones."""
        self._pool().close()

    def _pool(self) -> Pool:
        return shared_pool("algebra", self.workers, self.timeout, self.memory)


def reference(answer: str) -> str:
    """A task's answer; where that is a statement like \\boxed{3} or a solution, what it states."""
    return (extract_answer(answer) or answer).strip()


@lru_cache(maxsize=4_096)
def _settle(completion: str, answer: str) -> Verdict | tuple[str, str]:
    """The verdict where it takes no algebra; otherwise the two answers to compare."""
    gold, given = reference(answer), extract_answer(completion)
    if not gold or given is None:
        return _verdict(False, given, "no-answer" if gold else "unverifiable")
    same = equal(gold, given)
    if same is None and max(len(gold), len(given)) <= LONGEST:
        return gold, given
    return _verdict(bool(same), given, "too-long" if same is None else "")


def _verdict(correct: bool, answer: str | None, note: str) -> Verdict:
    return Verdict(reward=float(correct), correct=correct, answer=answer, note=note)


def _replied(given: str, reply: Reply) -> Verdict:
    return _verdict(reply.value is True, given, reply.note)
