"""`igpo data contamination`: held-out problems that occur in what is trained on."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from igpo_cli.commands import App, config_command
from igpo_cli.commands.data_show import clipped
from igpo_cli.errors import configuring

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from igpo_cli.config import Config
    from igpo_data.overlap import Overlap

SHOWN = 3


def register(app: App) -> None:
    """Adds `igpo data contamination`."""

    @config_command(app, "data contamination", tables=("", "task", "eval"), preset=None)
    def contamination(
        config: Config,
        *,
        against: Annotated[
            str, typer.Option(metavar="SPLIT", help="Split of the same task, where no evaluation is configured.")
        ] = "test",
        words: Annotated[int, typer.Option(min=1, help="Words of a run that counts as common.")] = 13,
        share: Annotated[
            float, typer.Option(min=0, max=1, help="Share of its runs from which a problem counts as trained on.")
        ] = 0.5,
        traces: Annotated[bool, typer.Option(help="Look into the worked solutions that are trained on too.")] = True,
        as_json: Annotated[bool, typer.Option("--json", help="One object, by evaluation.")] = False,
    ) -> None:
        """Look for the problems of every evaluation, or of the test split, in what is trained on."""
        from igpo_cli.tasks import task_name, tasks_of
        from igpo_data.overlap import Contamination

        scopes: dict[str, tuple[str | None, str, int | None]] = {
            name: (f"eval.{name}", config.evaluation(name).split, config.evaluation(name).limit)
            for name in config.evals()
        } or {against: (None, against, None)}
        training = tasks_of(config, config.run.split, limit=config.run.limit)
        results: dict[str, Any] = {}
        for name, (scope, split, limit) in scopes.items():
            held_out = tasks_of(config, split, scope, limit)
            with configuring():
                overlaps = Contamination(held_out, words).against(training, traces=traces)
            results[name] = {"task": task_name(config, scope), "split": split, **figures(overlaps, share)}
        found = {
            "task": task_name(config),
            "split": config.run.split,
            "tasks": len(training),
            "words": words,
            "share": share,
            "evaluations": results,
        }
        print(json.dumps(found, indent=2, ensure_ascii=False)) if as_json else show(found)


def figures(overlaps: Sequence[Overlap], share: float) -> dict[str, Any]:
    """Counts, and every problem that has something in common, the worst first."""
    touched = sorted((one for one in overlaps if one.share > 0 or one.exact), key=lambda one: (-one.exact, -one.share))
    return {
        "problems": len(overlaps),
        "same prompt": sum(one.exact for one in overlaps),
        "trained on": sum(one.exact or (one.share > 0 and one.share >= share) for one in overlaps),
        "with a common run": len(touched),
        "found": [
            {
                "key": one.task.key,
                "prompt": one.task.prompt,
                "exact": one.exact,
                "share": round(one.share, 4),
                "nearest": one.nearest,
                "nearest_share": round(one.nearest_share, 4),
            }
            for one in touched
        ],
    }


def show(found: Mapping[str, Any]) -> None:
    """A row an evaluation, then the worst problems of each."""
    from rich.text import Text

    from igpo_cli import table
    from igpo_cli.pieces import visible

    console = table.pipe_or_terminal()
    console.print(
        f"Trained on: {found['task']}, split {found['split']}, {found['tasks']:,} problems. "
        f"A run is {found['words']} words; from {found['share']:.0%} of its runs a problem counts as trained on.\n",
        highlight=False,
    )
    titles = ("evaluation", "problems", "same prompt", "trained on", "with a common run")
    rows = [
        [
            name if name == row["task"] else f"{name}: {row['task']}, {row['split']}",
            *(f"{row[title]:,}" for title in titles[1:]),
        ]
        for name, row in found["evaluations"].items()
    ]
    table.show([table.Column(title, right=at > 0) for at, title in enumerate(titles)], rows, console)
    for row in found["evaluations"].values():
        for one in row["found"][:SHOWN]:
            what = "the same prompt" if one["exact"] else f"{one['share']:.0%} of its runs"
            where = f", most of them in {visible(one['nearest'])}" if one["nearest"] else ""
            console.print(Text(f"\n{visible(one['key'])}: {what}{where}", "dim"))
            console.print(Text(clipped(one["prompt"])))
