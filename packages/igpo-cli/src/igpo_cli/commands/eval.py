"""`igpo eval`: how good a model is on held-out tasks, and how sure that is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from igpo_cli.commands import App, config_command
from igpo_cli.errors import UsageError

if TYPE_CHECKING:
    from igpo_cli.config import Config


def register(app: App) -> None:
    """Adds the command."""

    @config_command(app, "eval", tables=("", "model", "prompt", "eval"))
    def eval_(
        config: Config,
        *,
        only: Annotated[list[str], typer.Option(metavar="NAME", help="Only this evaluation; may be repeated.")] = [],  # noqa: B006
        out: Annotated[
            Path | None,
            typer.Option(metavar="DIR", help="Write NAME.jsonl here, one line a sample; must not hold one."),
        ] = None,
        as_json: Annotated[bool, typer.Option("--json", help="One object, by evaluation.")] = False,
    ) -> None:
        """Evaluate a model or a run (igpo eval runs/NAME) on its evaluations."""
        from igpo_cli.assemble import load_model, player_of, problem_set, trained_model
        from igpo_cli.evaluate import evaluate
        from igpo_cli.tasks import verifier_of

        names = only or list(config.evals())
        if not names:
            raise UsageError(
                "no evaluation is configured. Add [eval.NAME], or start from a preset (igpo config presets)."
            )
        if out is not None and (held := [name for name in names if (out / f"{name}.jsonl").exists()]):
            raise UsageError(f"{out / f'{held[0]}.jsonl'} exists already. Choose another --out.")
        settings = {name: config.evaluation(name) for name in names}
        loaded = load_model(config, trained_model(config))
        results = {}
        for name, options in settings.items():
            scope = f"eval.{name}"
            problems = problem_set(config, loaded, options.split, scope, options.limit)
            with verifier_of(config, scope) as verifier:
                player = player_of(config, loaded, problems, verifier, scope)
                score = evaluate(player, problems, samples=options.samples, seed=config.run.seed)
            if out is not None:
                score.write(out / f"{name}.jsonl")
            results[name] = score.metrics
        if as_json:
            print(json.dumps(results, indent=2))
        else:
            show(results)


def show(results: dict[str, dict[str, float]]) -> None:
    """A row an evaluation."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, padding=(0, 3, 0, 0))
    for title in ("evaluation", "problems", "pass@1", "95 % interval", "more"):
        table.add_column(title, justify="left" if title in ("evaluation", "more") else "right")
    for name, metrics in results.items():
        more = [f"{key} {value:.3f}" for key, value in metrics.items() if "@" in key and key != "pass@1"]
        interval = f"{metrics['low']:.3f} to {metrics['high']:.3f}"
        table.add_row(name, f"{metrics['problems']:.0f}", f"{metrics['pass@1']:.3f}", interval, "  ".join(more))
    Console().print(table)
