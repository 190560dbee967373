"""Generated problems without end, from reasoning-gym: by name, and with worked solutions for `gsm_symbolic`.

A task carries its entry, so that the verifier `reasoning-gym` can ask the data set's own scorer. Those scorers give partial
credit and accept garbage in places: where answers are unique, `math` or `exact` is the better judge.
"""

from __future__ import annotations

import hashlib
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from attrs import field, frozen, validators

from igpo_data.extraction import locate_answers
from igpo_data.task import Task

BROKEN_TEMPLATES = frozenset((32, 35, 37, 61, 63, 65, 74, 76, 77, 79, 86, 87, 90, 97, 98))
# Of gsm_symbolic; marked there as needing a fix.
ATTEMPTS = 4
# Generated problems per wanted one at most, where a data set repeats itself.


@frozen(kw_only=True)
class Procedural:
    """Generated problems of reasoning-gym; gsm_symbolic resembles GSM8K and has worked solutions."""

    dataset: str = "gsm_symbolic"
    """Name of the data set in reasoning-gym."""
    seed: int = 0
    """Another seed generates other problems."""
    train_problems: int = field(default=10_000, validator=[validators.ge(1), validators.le(1_000_000)])
    """Problems in the split "train"."""
    test_problems: int = field(default=512, validator=[validators.ge(1), validators.le(1_000_000)])
    """Held-out problems in the split "test"; none of them is in "train"."""

    splits = ("train", "test")

    def __call__(self, split: str) -> list[Task]:
        """The problems of a split, all different, the same ones at every call; fewer where there are no more.

        meta: dataset and entry (question, answer, metadata). An answer that only the scorer knows is "".
        """
        if split not in self.splits:
            raise ValueError(f"procedural has no split {split!r}; it has {', '.join(self.splits)}")
        with _randomness_kept():
            held_out = {task.prompt: task for task in self._generate("test", self.test_problems, frozenset())}
            if split == "test":
                return list(held_out.values())
            return list(self._generate("train", self.train_problems, frozenset(held_out)))

    def _generate(self, split: str, problems: int, excluded: frozenset[str]) -> Iterator[Task]:
        import reasoning_gym

        # Problem i comes of seed + i there, so the splits' seeds must be far apart (and, for numpy, below 2**32).
        digest = hashlib.blake2b(f"{self.dataset}/{self.seed}/{split}".encode(), digest_size=4).digest()
        try:
            source = reasoning_gym.create_dataset(
                self.dataset, seed=int.from_bytes(digest, "big") >> 1, size=ATTEMPTS * problems
            )
        except ValueError as error:
            raise ValueError(f"reasoning-gym has no data set {self.dataset!r}: {error}") from error
        seen = set(excluded)
        for index, entry in enumerate(source):
            if self.dataset == "gsm_symbolic" and source.task_indices[index] in BROKEN_TEMPLATES:
                continue
            if entry["question"] not in seen:
                seen.add(entry["question"])
                yield self._task(entry, f"{self.dataset}/{split}/{index}")
            if len(seen) - len(excluded) == problems:
                return

    def _task(self, entry: dict[str, Any], key: str) -> Task:
        answer = str(entry["answer"] or "").strip()
        trace = entry["metadata"].get("answer_cot")
        return Task(
            key=key,
            prompt=entry["question"],
            answer=answer,
            trace=trace,
            answer_spans=locate_answers(trace, answer) if trace else (),
            meta={"dataset": self.dataset, "entry": entry},
        )


@contextmanager
def _randomness_kept() -> Iterator[None]:
    """Gives back the global generators as they were: importing reasoning-gym draws from one, some data sets seed another."""
    numpy = sys.modules.get("numpy")
    python_state, numpy_state = random.getstate(), numpy.random.get_state() if numpy else None
    try:
        yield
    finally:
        random.setstate(python_state)
        if numpy:
            numpy.random.set_state(numpy_state)
