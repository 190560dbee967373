"""Mathematical answers: what the completion finally states, compared exactly, with algebra only where it takes algebra.

The published trainers compare strings or hand whole texts to a computer algebra system; the first makes false all-wrong
groups and so needless hints, the second believes any number in the text and can hang.
"""

from __future__ import annotations

from collections.abc import Sequence

from attrs import field, frozen, validators

from igpo_data.answers import algebra, equal
from igpo_data.extraction import extract_answer
from igpo_data.pool import shared_pool
from igpo_data.task import Task
from igpo_data.verdict import Verdict

LONGEST = 400
# Characters of an answer that is given to algebra.


@frozen(kw_only=True)
class Math:
    """Mathematical equality of the last \\boxed{} or other final statement with the answer.

    Numbers, fractions, units, percent, names, tuples and sets are compared in process; what is left goes to math-verify
    in worker processes with limits of time and memory. Nothing that a model wrote is ever evaluated as Python.
    """

    timeout: float = field(default=1.0, validator=validators.gt(0.0))
    """Processor seconds for one comparison by algebra. Beyond it the verdict is wrong, with the note "timeout"."""
    workers: int = field(default=4, validator=validators.ge(1))
    """Worker processes at most; none is started before an answer takes algebra."""
    memory: int = field(default=1024, validator=validators.ge(256))
    """Memory limit of a worker process in MiB."""

    def __call__(self, completion: str, task: Task) -> Verdict:
        """Judges one completion; `many` is faster for several."""
        return self.many([(completion, task)])[0]

    def many(self, pairs: Sequence[tuple[str, Task]]) -> list[Verdict]:
        """Verdicts in order; comparisons that take algebra run side by side, identical ones once.

        Notes: no-answer (none is stated), unverifiable (the task has none), too-long, timeout, memory, error.
        """
        verdicts: list[Verdict | None] = []
        undecided: dict[int, tuple[str, str, str]] = {}
        for completion, task in pairs:
            gold, given = reference(task), extract_answer(completion)
            if not gold or given is None:
                verdicts.append(_verdict(False, given, "no-answer" if gold else "unverifiable"))
                continue
            same = equal(gold, given)
            if same is None and max(len(gold), len(given)) <= LONGEST:
                undecided[len(verdicts)] = algebra(gold), algebra(given), given
                verdicts.append(None)
            else:
                verdicts.append(_verdict(bool(same), given, "too-long" if same is None else ""))
        if undecided:
            pool = shared_pool("algebra", self.workers, self.timeout, self.memory)
            replies = pool.check([(gold, given) for gold, given, _ in undecided.values()])
            for (index, (_, _, answer)), reply in zip(undecided.items(), replies, strict=True):
                verdicts[index] = _verdict(reply.value is True, answer, reply.note)
        return [verdict for verdict in verdicts if verdict is not None]

    def close(self) -> None:
        """Ends the worker processes; the next comparison by algebra starts new ones."""
        shared_pool("algebra", self.workers, self.timeout, self.memory).close()


def reference(task: Task) -> str:
    """The task's answer; where that is a statement like \\boxed{3} or a solution, what it states."""
    return (extract_answer(task.answer) or task.answer).strip()


def _verdict(correct: bool, answer: str | None, note: str) -> Verdict:
    return Verdict(reward=float(correct), correct=correct, answer=answer, note=note)
