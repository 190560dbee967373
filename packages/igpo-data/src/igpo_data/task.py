"""A task: a prompt, its answer, and where there is one a worked solution whose answer span is known.

The span is what keeps the answer out of every hint, so it is part of the record and checked on construction.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from attrs import field, frozen


@frozen(kw_only=True)
class Task:
    """One problem with its answer."""

    key: str
    """Unique within its source and stable between runs: seeds are derived from it."""
    prompt: str
    """The question alone; instructions and chat markup are the prompt template's business."""
    answer: str
    """The reference answer as text."""
    trace: str | None = None
    """A worked solution, or None; only tasks with one can give hints."""
    answer_spans: tuple[tuple[int, int], ...] = ()
    """Half-open spans, in characters of `trace`, that state the answer and are never shown as a hint."""
    meta: Mapping[str, Any] = field(factory=dict)
    """What a verifier or a report needs beyond that, by these names where the built-in ones read it:

    dataset, entry: name of a reasoning-gym data set and its own entry (question, answer, metadata), for its scorer.
    tests, entry_point, prefix: Python source that raises where a program is wrong; the function that it tests (where
    `tests` only defines `check(candidate)`, that is called with it); and the code that the completion goes on from ("").
    numbers, target: of a countdown problem. puzzle: of a sudoku, a row after the other, 0 for an empty cell.
    choices: texts of a multiple-choice problem, in the order of the letters.
    level: how hard the problem is said to be, a number.
    """

    def __attrs_post_init__(self) -> None:
        length = len(self.trace or "")
        for start, end in self.answer_spans:
            if not 0 <= start < end <= length:
                raise ValueError(
                    f"task {self.key!r}: answer span ({start}, {end}) lies outside the trace of {length} characters; "
                    "spans are half-open and in characters of the trace"
                )

    @property
    def can_hint(self) -> bool:
        """True where a trace exists and its answer was located; otherwise the task is used without hints."""
        return self.trace is not None and bool(self.answer_spans)


class TaskSource(Protocol):
    """Plug-in kind `task`: a frozen attrs class whose fields are its options.

    May have `vocabulary() -> Sequence[str]`: the closed set of words of its prompts and traces, for models that are
    trained from nothing; without it such a model reads bytes. May have the class attributes `splits`, a tuple of names,
    and `hub`, the data set's name there: `igpo data list` shows them.
    """

    def __call__(self, split: str) -> Sequence[Task] | Iterable[Task]:
        """The tasks of one split ("train", "test", or a name of the source's own); the same ones at every call."""
        ...
