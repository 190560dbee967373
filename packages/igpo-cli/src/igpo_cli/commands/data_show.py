"""`igpo data show`: some tasks as they are, with the answer marked wherever the trace states it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from igpo_cli.commands import App, config_command
from igpo_cli.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.text import Text

    from igpo_cli.config import Config
    from igpo_data import Task

EXAMPLES = 3


def register(app: App) -> None:
    """Adds `igpo data show`."""

    @config_command(app, "data show", tables=("", "task"), preset=None)
    def show(
        config: Config,
        *,
        at: Annotated[int | None, typer.Option(min=0, help="The task at this place, counted from 0.")] = None,
        key: Annotated[str | None, typer.Option(help="The task of this key.")] = None,
        as_json: Annotated[bool, typer.Option("--json", help="A list of objects.")] = False,
    ) -> None:
        """Show tasks: the first three, --limit many, or one by its place or key. What the trace states as answer is marked."""
        from igpo_cli.tasks import tasks_of

        chosen = at is not None or key is not None
        limit = config.run.limit or (None if key is not None else at + 1 if at is not None else EXAMPLES)
        tasks = tasks_of(config, config.run.split, limit=limit)
        if chosen:
            tasks = [task for number, task in enumerate(tasks) if number == at or task.key == key]
            if not tasks:
                wanted = f"the key '{key}'" if key is not None else f"place {at}"
                raise UsageError(f"no task has {wanted} in split '{config.run.split}'.")
        if as_json:
            print(json.dumps([plain(task) for task in tasks], indent=2, ensure_ascii=False, default=str))
        else:
            show_tasks(tasks)


def plain(task: Task) -> dict[str, Any]:
    """The task as an object; answer spans are half-open, in characters of the trace."""
    return {
        "key": task.key,
        "prompt": task.prompt,
        "answer": task.answer,
        "trace": task.trace,
        "answer_spans": [list(span) for span in task.answer_spans],
        "meta": dict(task.meta),
    }


def clipped(text: str, longest: int = 400) -> str:
    """The text in one paragraph, cut in its middle where it is long: what problems differ in stands at their ends too."""
    from igpo_cli.pieces import visible

    text = visible(" ".join(text.split()))
    return text if len(text) <= longest else f"{text[: longest // 2]} … {text[-longest // 2 :]}"


def show_tasks(tasks: Sequence[Task]) -> None:
    """One after the other, as a person reads them."""
    from rich.text import Text

    from igpo_cli.pieces import visible
    from igpo_cli.screen import tolerant_console

    console = tolerant_console()
    for number, task in enumerate(tasks):
        console.print(Text(("\n" if number else "") + visible(task.key), "dim"))
        console.print(Text(visible(task.prompt), "bold"), soft_wrap=True)
        if task.trace is not None:
            console.print(with_answers(task), soft_wrap=True)
        answer = Text.assemble(("answer  ", "dim"), visible(task.answer))
        if task.trace is None:
            answer.append("  no trace: no hints", "dim")
        elif not task.can_hint:
            answer.append("  not located in the trace: no hints", "yellow")
        console.print(answer, soft_wrap=True)
        for name, value in task.meta.items():
            shown = visible(str(value))
            shown = shown if len(shown) <= 200 else shown[:199] + "…"
            console.print(Text.assemble((f"{visible(name)}  ", "dim"), shown), soft_wrap=True)


def with_answers(task: Task) -> Text:
    """The trace; what states the answer, and is never a hint, is red and underlined."""
    from rich.text import Text

    from igpo_cli.pieces import visible

    trace, text, end = task.trace or "", Text(), 0
    for start, stop in task.answer_spans:
        text.append(visible(trace[end:start])).append(visible(trace[start:stop]), "bold underline red")
        end = stop
    return text.append(visible(trace[end:]))
