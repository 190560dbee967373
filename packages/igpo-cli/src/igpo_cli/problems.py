"""From tasks to tokens, once: prompts by the run's template, traces with their answer spans, SFT targets.

Everything downstream keeps token ids; nothing is tokenised a second time.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import lazy_loader as lazy
from attrs import frozen
from igpo_data import Task
from igpo_rl import Problem, derive, problem_from_text

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from igpo_cli.settings import Prompt
else:
    torch = lazy.load("torch")


def encode_prompt(prompt: Prompt, tokenizer: Any, question: str) -> Tensor:
    """The question in the run's template -> (P,) long token ids without padding."""
    text = prompt.template.replace("{prompt}", question)
    if prompt.chat:
        messages = [{"role": "system", "content": prompt.system}] if prompt.system else []
        messages.append({"role": "user", "content": text})
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=False)
    else:
        ids = tokenizer(f"{prompt.system}{text}" if prompt.system else text, add_special_tokens=False)["input_ids"]
    return torch.tensor(ids, dtype=torch.long)


def encode_task(task: Task, prompt: Prompt, tokenizer: Any) -> Problem:
    """One task as tokens; trace tokens that touch an answer span are not hintable."""
    ids = encode_prompt(prompt, tokenizer, task.prompt)
    if task.trace is None:
        return Problem(key=task.key, prompt=ids)
    coded = tokenizer(task.trace, add_special_tokens=False, return_offsets_mapping=True)
    problem = problem_from_text(
        key=task.key,
        prompt=ids,
        trace=torch.tensor(coded["input_ids"], dtype=torch.long),
        offsets=coded["offset_mapping"],
        text=task.trace,
        answer_spans=task.answer_spans,
        answer=task.answer,
    )
    return problem


@frozen(eq=False)
class ProblemSet:
    """The tasks of a run and their tokens, by key; an endless, resumable order over them."""

    tasks: dict[str, Task]
    problems: list[Problem]
    dropped: int
    """Tasks left out because a key occurred twice."""

    @classmethod
    def encode(cls, tasks: Sequence[Task], prompt: Prompt, tokenizer: Any) -> ProblemSet:
        by_key: dict[str, Task] = {}
        for task in tasks:
            by_key.setdefault(task.key, task)
        problems = [encode_task(task, prompt, tokenizer) for task in by_key.values()]
        return cls(by_key, problems, len(tasks) - len(by_key))

    @property
    def hintable(self) -> int:
        """Problems that have at least one token that may be shown as a hint."""
        return sum(problem.hintable is not None and bool(problem.hintable.any()) for problem in self.problems)

    def stream(self, seed: int, start: int = 0, stride: int = 1, offset: int = 0) -> Iterator[Problem]:
        """Endless problems from position `start`, every `stride`-th from `offset`: each epoch is a permutation of its own seed."""
        size, position = len(self.problems), start + offset
        epoch, order = -1, list(range(size))
        while True:
            if position // size != epoch:
                epoch = position // size
                order = list(range(size))
                random.Random(derive(seed, "epoch", epoch)).shuffle(order)
            yield self.problems[order[position % size]]
            position += stride
