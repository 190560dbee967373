"""`igpo data dedupe`: the problems without those that repeat an earlier one, as a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from igpo_cli.commands import App, config_command
from igpo_cli.commands.data_show import clipped, plain
from igpo_cli.errors import UsageError, configuring

if TYPE_CHECKING:
    from collections.abc import Sequence

    from igpo_cli.config import Config
    from igpo_data import Task
    from igpo_data.overlap import Repeat

SHOWN = 5


def register(app: App) -> None:
    """Adds `igpo data dedupe`."""

    @config_command(app, "data dedupe", tables=("", "task"), preset=None)
    def dedupe(
        config: Config,
        *,
        near: Annotated[
            float | None,
            typer.Option(help="Also leave out prompts that share so much of their words with an earlier one (0 to 1)."),
        ] = None,
        out: Annotated[
            Path | None,
            typer.Option(metavar="FILE.jsonl", help="Write what is left here; without it nothing is written."),
        ] = None,
        overwrite: Annotated[bool, typer.Option("--overwrite", help="Write that file anew if it exists.")] = False,
        as_json: Annotated[bool, typer.Option("--json", help="One object.")] = False,
    ) -> None:
        """Leave out problems whose prompt repeats an earlier one, and write the rest for --task jsonl."""
        from igpo_cli.tasks import task_name, tasks_of
        from igpo_data.overlap import repeats

        if out is not None and out.exists() and not overwrite:
            raise UsageError(f"{out} exists already. Choose another --out, or write it anew with --overwrite.")
        tasks = tasks_of(config, config.run.split, limit=config.run.limit)
        with configuring():
            kept, repeated = repeats(tasks, near)
        if out is not None:
            write(kept, out)
        if as_json:
            found = {
                "task": task_name(config),
                "split": config.run.split,
                "tasks": len(tasks),
                "kept": len(kept),
                "same words": sum(repeat.similarity == 1 for repeat in repeated),
                "similar": sum(repeat.similarity < 1 for repeat in repeated),
                "same words, another answer": sum(repeat.conflict for repeat in repeated),
                "left out": [
                    {"key": one.task.key, "repeats": one.first.key, "similarity": round(one.similarity, 4)}
                    for one in repeated
                ],
                "out": None if out is None else str(out),
            }
            print(json.dumps(found, indent=2, ensure_ascii=False))
        else:
            show(len(tasks), kept, repeated, out)


def write(tasks: Sequence[Task], file: Path) -> None:
    """One object a line: key, prompt, answer, trace, answer_spans and the columns of meta. The file is whole or not there."""
    partial = file.with_name(f"{file.name}.part")
    file.parent.mkdir(parents=True, exist_ok=True)
    with partial.open("w", encoding="utf-8") as lines:
        for task in tasks:
            row = plain(task)
            lines.write(json.dumps(row.pop("meta") | row, ensure_ascii=False, default=str) + "\n")
    partial.replace(file)


def show(tasks: int, kept: Sequence[Task], repeated: Sequence[Repeat], out: Path | None) -> None:
    """How many, the first few pairs, and how to use the file."""
    from rich.text import Text

    from igpo_cli.pieces import visible
    from igpo_cli.table import pipe_or_terminal

    console = pipe_or_terminal()
    same = [one for one in repeated if one.similarity == 1]
    conflicts = sum(one.conflict for one in same)
    console.print(
        f"{tasks:,} problems, {len(kept):,} kept; left out: {len(same):,} with the same words"
        + (f" ({conflicts:,} of them with another answer)" if conflicts else "")
        + f", {len(repeated) - len(same):,} similar",
        highlight=False,
    )
    for one in [*same[:SHOWN], *sorted(repeated[len(same) :], key=lambda one: one.similarity)[:SHOWN]]:
        note = "another answer, " if one.conflict else ""
        console.print(
            Text(f"\n{visible(one.task.key)} repeats {visible(one.first.key)} ({note}{one.similarity:.2f})", "dim")
        )
        console.print(Text(clipped(one.first.prompt)))
        console.print(Text(clipped(one.task.prompt)))
    if out is not None:
        trace = " --task.trace trace" if any(task.trace for task in kept) else ""
        console.print(
            Text(f"\nwritten: {out}; use it with --task jsonl --task.path {out} --task.key key{trace}"), soft_wrap=True
        )
