"""The scorers of reasoning-gym's data sets, for answers of which there is more than one.

They give partial credit, some raise on odd text or take it for right, and some evaluate it as Python. So they run in
killable workers in which nothing is evaluated, only the full score counts, and one that believes nonsense is not heard.
"""

from __future__ import annotations

import base64
import pickle
from collections.abc import Mapping, Sequence
from typing import Any

from attrs import field, frozen, validators

from igpo_data.extraction import extract_answer
from igpo_data.pool import Pool, Reply, shared_pool
from igpo_data.task import Task
from igpo_data.verdict import Verdict

LONGEST = 20_000
# Characters of an answer.


@frozen(kw_only=True)
class ReasoningGym:
    """The scorer of the task's own reasoning-gym data set; correct is only its full score."""

    partial: bool = False
    """Give the score as reward, not only 1 or 0. Scorers give small change for anything."""
    timeout: float = field(default=2.0, validator=validators.gt(0.0))
    """Processor seconds for one score. Beyond it the verdict is wrong, with the note "timeout"."""
    workers: int = field(default=2, validator=validators.ge(1))
    """Worker processes of a machine at most, which the processes of a job share."""
    memory: int = field(default=2048, validator=validators.ge(1024))
    """Memory limit of a worker process in MiB."""

    def __call__(self, completion: str, task: Task) -> Verdict:
        """Judges one completion; `many` is faster for several."""
        return self.many([(completion, task)])[0]

    def many(self, pairs: Sequence[tuple[str, Task]]) -> list[Verdict]:
        """Verdicts in order. The entry is `task.meta["entry"]`, its data set `task.meta["dataset"]` or what it names.

        Unverifiable are tasks without an entry, and texts that their scorer would have to evaluate as code.
        """
        stated = [extract_answer(completion) for completion, _ in pairs]
        packed = [_packed(task.meta) for _, task in pairs]
        asked = [
            (*entry, text)
            for entry, text in zip(packed, stated, strict=True)
            if entry and text and len(text) <= LONGEST
        ]
        replies = iter(self._pool().check(asked) if asked else ())
        verdicts = []
        for entry, text in zip(packed, stated, strict=True):
            if not entry or not text or len(text) > LONGEST:
                note = "unverifiable" if not entry else "too-long" if text else "no-answer"
                verdicts.append(Verdict(reward=0.0, correct=False, answer=text, note=note))
            else:
                verdicts.append(self._verdict(text, next(replies)))
        return verdicts

    def close(self) -> None:
        """Ends the worker processes; the next score starts new ones."""
        self._pool().close()

    def _verdict(self, text: str, reply: Reply) -> Verdict:
        if reply.value is None:
            return Verdict(reward=0.0, correct=False, answer=text, note=reply.note or "unverifiable")
        correct = reply.value == 1.0
        reward = min(max(reply.value, 0.0), 1.0) if self.partial else float(correct)
        return Verdict(reward=reward, correct=correct, answer=text)

    def _pool(self) -> Pool:
        return shared_pool("score", self.workers, self.timeout, self.memory)


def _packed(meta: Mapping[str, Any]) -> tuple[str, str] | None:
    """Data set and entry as text for the worker; entries hold tuples and sets, which JSON would change."""
    entry = meta.get("entry")
    if not entry:
        return None
    name = str(meta.get("dataset") or entry["metadata"]["source_dataset"])
    return name, base64.b64encode(pickle.dumps(entry)).decode("ascii")
