"""Conformance checks for task sources and verifiers, for the built-in ones and for third parties alike.

Each raises AssertionError that says what is wrong. A reward that cannot be trusted ruins a run without a trace, so the
check of a verifier also throws at it what models really write when they fail.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import islice, pairwise

import attrs

from igpo_data.task import Task, TaskSource
from igpo_data.verdict import Verdict, Verifier, verify

HOSTILE = (
    "",
    " \n\t",
    "\\boxed{}",
    "\\boxed{",
    "\\boxed",
    "####",
    "The answer is",
    "\x00\ufffd\ud800",
    "9**9**9**9",
    "\\boxed{9^{9^{9^{9}}}}",
    "\\boxed{10^{10^{10}}}",
    "\\boxed{100000000!}",
    "\\boxed{__import__('os')._exit(3)}",
    "\\boxed{().__class__.__base__.__subclasses__()}",
    "\\boxed{" + "(" * 200 + "1" + ")" * 200 + "}",
    "\\boxed{" * 3_000 + "1" + "}" * 3_000,
    "\\boxed{" + "\\frac{1}{" * 100 + "1" + "}" * 100 + "}",
    "\\boxed{" + "9" * 5_000 + "}",
    "\\boxed{1e999999999}",
    "\\boxed{1/0}",
    "[" * 1_000_000,
    "#### " * 200_000,
)
# Completions that must be neither correct nor able to crash or block a verifier.


def check_task_source(source: TaskSource, split: str = "train", limit: int = 1_000) -> None:
    """The first `limit` tasks of a split: repeatable, with unique keys, and with answers that can be kept out of hints."""
    _check_options(source)
    tasks = list(islice(source(split), limit))
    _require(bool(tasks), f"the split {split!r} is empty")
    _require(tasks == list(islice(source(split), limit)), "two calls give different tasks; draw from an explicit seed")
    keys = [task.key for task in tasks]
    _require(len(set(keys)) == len(keys), "keys occur twice; seeds are derived from them")
    vocabulary = set(source.vocabulary()) if hasattr(source, "vocabulary") else None
    for task in tasks:
        _require(bool(task.key and task.prompt.strip()), f"task {task.key!r} has no key or no prompt")
        for (_, end), (start, _) in pairwise(task.answer_spans):
            _require(end <= start, f"task {task.key!r}: answer spans overlap or are out of order: {task.answer_spans}")
        _require(
            task.trace is None or not task.answer_spans or task.answer_spans != ((0, len(task.trace)),),
            f"task {task.key!r}: the whole trace is answer, nothing is left for hints",
        )
        if vocabulary is not None:
            words = set(f"{task.prompt} {task.trace or ''}".split())
            _require(
                words <= vocabulary, f"task {task.key!r}: words outside vocabulary(): {sorted(words - vocabulary)}"
            )


def check_verifier(verifier: Verifier, task: Task, right: Sequence[str], wrong: Sequence[str] = ()) -> None:
    """Right completions of a task are correct, wrong and hostile ones are not, alone as in a batch, and nothing raises."""
    _check_options(verifier)
    _require(bool(right), "give at least one right completion; a verifier that rejects everything proves nothing")
    completions = [*right, *wrong, *HOSTILE]
    batch = verify(verifier, [(completion, task) for completion in completions])
    _require(len(batch) == len(completions), f"{len(completions)} completions, but {len(batch)} verdicts")
    for index, (completion, verdict) in enumerate(zip(completions, batch, strict=True)):
        shown = f"{completion[:60]!r} (answer {task.answer!r})"
        _require(isinstance(verdict, Verdict), f"{shown}: a {type(verdict).__name__} instead of a Verdict")
        _require(isinstance(verdict.correct, bool), f"{shown}: correct = {verdict.correct!r} is no bool")
        _require(math.isfinite(verdict.reward), f"{shown}: reward = {verdict.reward}")
        _require(verdict.correct == (index < len(right)), f"{shown}: judged {verdict}")
    for completion in (*right, *wrong):
        alone = verifier(completion, task)
        _require(alone == batch[completions.index(completion)], f"{completion[:60]!r}: another verdict alone: {alone}")
    empty = attrs.evolve(task, answer="", trace=None, answer_spans=())
    _require(not verifier("", empty).correct, "an empty completion agrees with an empty answer")


def _check_options(plugin: object) -> None:
    kind = type(plugin)
    _require(attrs.has(kind), f"{kind.__name__} is no attrs class; its fields are its options")
    _require(
        bool((kind.__doc__ or "").strip()), f"{kind.__name__} has no docstring; its first line is shown by igpo plugins"
    )
    try:
        hash(plugin)
    except TypeError:
        frozen = False
    else:
        frozen = kind.__setattr__ is not object.__setattr__
    _require(frozen, f"{kind.__name__} is not frozen; use @attrs.frozen(kw_only=True)")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise AssertionError(message)
