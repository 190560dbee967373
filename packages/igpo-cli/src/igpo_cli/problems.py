"""From tasks to tokens, once: prompts by the run's template, traces with their answer spans, SFT targets.

Everything downstream keeps token ids; nothing is tokenised a second time.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, takewhile
from typing import TYPE_CHECKING, Any

from attrs import frozen

from igpo_cli.errors import UsageError
from igpo_cli.pieces import decoder, pieces
from igpo_data import Task, locate_answers
from igpo_rl import Problem, later, problem_from_text
from igpo_rl.problems import value_spans

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from igpo_cli.settings import Prompt
else:
    torch = later.load("torch")


def refuse_unknown_words(tokenizer: Any, texts: Sequence[str]) -> None:
    """UsageError where a tokenizer of a closed list of words meets another one."""
    if type(tokenizer.backend_tokenizer.model).__name__ != "WordLevel":
        return
    known = tokenizer.get_vocab()
    unknown = next((word for text in texts for word in text.split() if word not in known), None)
    if unknown is not None:
        shown = " ".join(sorted(known, key=known.get)[:40])
        raise UsageError(
            f"the model does not know the word '{unknown}'. Its vocabulary has {len(known)} words: {shown}"
        )


def encode_prompts(prompt: Prompt, tokenizer: Any, questions: Sequence[str]) -> list[Tensor]:
    """Questions in the run's template -> (P_i,) long token ids without padding."""
    texts = [prompt.template.replace("{prompt}", question) for question in questions]
    refuse_unknown_words(tokenizer, texts)
    if prompt.chat:
        require_template(tokenizer)
        system = [{"role": "system", "content": prompt.system}] if prompt.system else []
        chats = [[*system, {"role": "user", "content": text}] for text in texts]
        ids = [
            tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=True, return_dict=False)
            for chat in chats
        ]
    elif texts:
        ids = tokenizer([f"{prompt.system or ''}{text}" for text in texts], add_special_tokens=False)["input_ids"]
    else:
        ids = []
    return [torch.tensor(row, dtype=torch.long) for row in ids]


def require_template(tokenizer: Any) -> None:
    """UsageError where a chat is asked for and the tokenizer does not know how to write one."""
    if not tokenizer.chat_template:
        raise UsageError(
            "[prompt] chat = true, but the model's tokenizer has no chat template. Set chat = false, and put the markup of a "
            "chat into [prompt] template yourself."
        )


def turn_end(tokenizer: Any) -> list[int]:
    """The token that closes the assistant's turn in the chat template (<|eot_id|> of LLaDA, <|im_end|> of Dream), or nothing.

    A rollout writes it before EOS, so SFT must teach it.
    """
    content = "42"
    chat = [{"role": "user", "content": "?"}, {"role": "assistant", "content": content}]
    behind = tokenizer.apply_chat_template(chat, tokenize=False).rpartition(content)[2]
    ids = tokenizer(behind, add_special_tokens=False)["input_ids"][:1]
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    return [token for token in ids if token in special]


def encode_task(task: Task, ids: Tensor, tokenizer: Any) -> Problem:
    """One task as tokens, `ids` (P,) its prompt; trace tokens that touch an answer span are not hintable."""
    if task.trace is None:
        return Problem(key=task.key, prompt=ids)
    coded = tokenizer(task.trace, add_special_tokens=False, return_offsets_mapping=True)
    return problem_from_text(
        key=task.key,
        prompt_ids=ids,
        trace_ids=coded["input_ids"],
        offsets=coded["offset_mapping"],
        trace_text=task.trace,
        answer_spans=task.answer_spans,
        answer=task.answer,
    )


def own_trace(problem: Problem, completion: Tensor, task: Task, tokenizer: Any) -> Problem | None:
    """The problem with a correct completion (n,) of it as its trace, for later hints; follows `igpo_rl.igpo.Retrace`.

    Hidden are all statements of the answer and, as nobody marked where the working gives it away, every occurrence of
    its value, as the task or as a statement has it. None where no statement is found, or nothing is left to show.
    """
    special = set(tokenizer.all_special_ids)
    ids = list(takewhile(lambda token: token not in special, completion.tolist()))
    parts = pieces(decoder(tokenizer), ids)
    ends = list(accumulate(map(len, parts)))
    text = "".join(parts)
    stated = locate_answers(text, task.answer)
    values = {task.answer, *(text[start:end] for start, end in stated)}
    own = problem_from_text(
        key=problem.key,
        prompt_ids=problem.prompt,
        trace_ids=ids,
        offsets=list(zip([0, *ends], ends, strict=False)),
        trace_text=text,
        answer_spans=[*stated, *(span for value in values for span in value_spans(text, value))] if stated else [],
        answer=task.answer,
    )
    return own if own.hintable is not None and own.hintable.any() else None


def encode_pairs(
    tasks: Sequence[Task], prompt: Prompt, tokenizer: Any, width: int
) -> tuple[list[tuple[Tensor, Tensor]], int]:
    """(prompt (P_i,), trace (H_i,)) for SFT, and how many tasks were left out: no trace, or one that has no room to end.

    In a chat a trace ends as the template ends a turn of the assistant; EOS follows in any case.
    """
    traced = [task for task in tasks if task.trace is not None]
    if not traced:
        return [], len(tasks)
    prompts = encode_prompts(prompt, tokenizer, [task.prompt for task in traced])
    traces = tokenizer([task.trace for task in traced], add_special_tokens=False)["input_ids"]
    end = turn_end(tokenizer) if prompt.chat else []
    pairs = [
        (question, torch.tensor([*trace, *end], dtype=torch.long))
        for question, trace in zip(prompts, traces, strict=True)
        if len(trace) + len(end) < width
    ]
    return pairs, len(tasks) - len(pairs)


def nothing_to_learn(tasks: Sequence[Task], name: str, width: int) -> UsageError:
    """The message where `encode_pairs` found nothing for SFT in the tasks of source `name`."""
    if any(task.trace is not None for task in tasks):
        return UsageError(f"[sft] none of {len(tasks)} tasks has a worked solution of under width = {width} tokens.")
    return UsageError(
        f"[sft] learns from worked solutions, but the {len(tasks)} tasks of '{name}' have none. Name their column "
        "(--task.trace), or go without this phase: --sft.steps 0"
    )


@frozen(eq=False)
class ProblemSet:
    """The tasks of a run and their tokens, by key."""

    tasks: dict[str, Task]
    problems: list[Problem]
    dropped: int
    """Tasks left out because a key occurred twice."""

    @classmethod
    def encode(cls, tasks: Sequence[Task], prompt: Prompt, tokenizer: Any) -> ProblemSet:
        by_key: dict[str, Task] = {}
        for task in tasks:
            by_key.setdefault(task.key, task)
        prompts = encode_prompts(prompt, tokenizer, [task.prompt for task in by_key.values()])
        problems = [encode_task(task, ids, tokenizer) for task, ids in zip(by_key.values(), prompts, strict=True)]
        return cls(by_key, problems, len(tasks) - len(by_key))

    @property
    def hintable(self) -> int:
        """Problems that have at least one token that may be shown as a hint."""
        return sum(problem.hintable is not None and bool(problem.hintable.any()) for problem in self.problems)
