"""`igpo data stats`: how long prompts, traces and answers are, how many answers are located, what occurs twice."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from igpo_cli.commands import App, config_command
from igpo_cli.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from igpo_cli.config import Config
    from igpo_data import Task

BARS = 10
WIDTH = 40
LABEL = 60
FEW = 12
"""Values of a column that are counted one by one; columns with more are left out."""


def register(app: App) -> None:
    """Adds `igpo data stats`."""

    @config_command(app, "data stats", tables=("", "task"), preset=None)
    def stats(
        config: Config,
        *,
        tokenizer: Annotated[
            str | None,
            typer.Option(
                metavar="DIR", help="Folder (or model of the hub) with a tokenizer.json: lengths in tokens too."
            ),
        ] = None,
        as_json: Annotated[bool, typer.Option("--json", help="One object.")] = False,
    ) -> None:
        """Count a task's problems: lengths, answers that are located, repetitions, answers that contradict each other."""
        from igpo_cli.tasks import task_name, tasks_of

        encoder = tokenizer_of(tokenizer) if tokenizer is not None else None
        tasks = tasks_of(config, config.run.split, limit=config.run.limit)
        found = {"task": task_name(config), "split": config.run.split, **figures(tasks, encoder)}
        print(json.dumps(found, indent=2, ensure_ascii=False)) if as_json else show(found)


def tokenizer_of(path: str) -> Any:
    """The tokenizer of a folder or a model of the hub, without its weights."""
    from transformers import PreTrainedTokenizerFast

    try:
        return PreTrainedTokenizerFast.from_pretrained(path)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"--tokenizer {path} holds no tokenizer.json that can be read ({reason})") from error


def figures(tasks: Sequence[Task], tokenizer: Any = None) -> dict[str, Any]:
    """All figures; lengths are lists of [from, to, tasks]."""
    from igpo_data.overlap import repeats

    kept, repeated = repeats(tasks)
    traced = [task for task in tasks if task.trace is not None]
    located = sum(task.can_hint for task in traced)
    texts = {
        "prompt": [task.prompt for task in tasks],
        "trace": [task.trace or "" for task in traced],
        "answer": [task.answer for task in tasks],
    }
    lengths = {name: [len(text) for text in some] for name, some in texts.items()}
    if tokenizer is not None:
        lengths |= {
            f"{name}, tokens": [len(ids) for ids in tokenizer(some, add_special_tokens=False)["input_ids"]]
            for name, some in texts.items()
            if some
        }
    return {
        "tasks": len(tasks),
        "with a trace": len(traced),
        "answer located in the trace": located,
        "answer located, share of traces": round(located / len(traced), 4) if traced else None,
        "not located, the first keys": [task.key for task in traced if not task.can_hint][:5],
        "without an answer": sum(not task.answer for task in tasks),
        "repeated keys": len(tasks) - len({task.key for task in tasks}),
        "different prompts": len(kept),
        "repeated prompts": len(repeated),
        "repeated with another answer": sum(repeat.conflict for repeat in repeated),
        "columns": columns(tasks),
        "lengths": {name: described(values) for name, values in lengths.items() if values},
    }


def columns(tasks: Sequence[Task]) -> dict[str, dict[str, int]]:
    """How often each value of a column of meta occurs, for columns of few values."""
    values: dict[str, Counter[str]] = {}
    for task in tasks:
        for name, value in task.meta.items():
            if isinstance(value, str | int | float | bool):
                values.setdefault(name, Counter())[str(value)[:LABEL]] += 1
    return {name: dict(sorted(counts.items())) for name, counts in values.items() if 1 < len(counts) <= FEW}


def described(values: Sequence[int]) -> dict[str, Any]:
    """Mean, median, 95th percentile, largest, and the tasks within each of ten equal steps up to the 99th percentile.

    The last step takes what is longer.
    """
    from igpo_cli.commands.data_check import spread

    ordered = sorted(values)
    high = ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))] + 1
    low = min(ordered[0], high - 1)
    step = max(1, -(-(high - low) // BARS))
    bars = [[low + step * number, low + step * (number + 1) - 1, 0] for number in range(-(-(high - low) // step))]
    for value in values:
        bars[min(len(bars) - 1, (value - low) // step)][2] += 1
    bars[-1][1] = max(bars[-1][1], ordered[-1])
    return {**(spread(values) or {}), "histogram": bars}


def show(found: Mapping[str, Any]) -> None:
    """The counts as lines, the lengths as bars."""
    from rich.text import Text

    from igpo_cli import table

    console = table.pipe_or_terminal()
    about: dict[str, str | Text] = {}
    for name, value in found.items():
        if name in ("lengths", "columns") or value == []:
            continue
        value = ", ".join(value) if isinstance(value, list) else f"{value:,}" if isinstance(value, int) else value
        about[name] = str("-" if value is None else value)
    for name, counts in found["columns"].items():
        about[name] = ", ".join(f"{value}: {count:,}" for value, count in counts.items())
    table.pairs(about, console)
    for name, about_lengths in found["lengths"].items():
        unit = "" if "tokens" in name else ", characters"
        summary = ", ".join(f"{key} {about_lengths[key]:,}" for key in ("mean", "median", "95 %", "max"))
        console.print(Text.assemble((f"\n{name}{unit}", "bold"), f"  {summary}"))
        rows = [
            (f"{low:,}" if low == high else f"{low:,} to {high:,}", f"{count:,}", count)
            for low, high, count in about_lengths["histogram"]
        ]
        most = max(count for *_, count in rows)
        beside = sum(max(len(row[at]) for row in rows) + table.GAP for at in (0, 1))
        width = min(WIDTH, console.width - beside)
        columns = [
            table.Column("", right=True, style="dim"),
            table.Column("", right=True),
            table.Column("", style="cyan"),
        ]
        bars = ["█" * max(bool(count), round(width * count / most)) for *_, count in rows]
        table.show(columns, [[*row[:2], bar] for row, bar in zip(rows, bars, strict=True)], console)
