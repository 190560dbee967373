"""`igpo eval`: how good models are on held-out tasks, how sure that is, and whether one is better than another."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from igpo_cli import launch
from igpo_cli.commands import App, config_command
from igpo_cli.errors import UsageError
from igpo_cli.launch import Processes

if TYPE_CHECKING:
    from igpo_cli.config import Config
    from igpo_cli.evaluate import Score
    from igpo_cli.paired import Difference

Scores = dict[str, dict[str, "Score"]]
"""By model, by evaluation."""
EVERY = 30.0
"""Seconds between two lines on a pipe that say how far it is."""


def register(app: App) -> None:
    """Adds the command."""

    @config_command(app, "eval", tables=("", "model", "prompt", "eval"))
    def eval_(
        config: Config,
        *,
        suite: Annotated[  # noqa: ARG001 read by config_command
            str | None,
            typer.Option(
                metavar="NAME", help="These evaluations instead: paper, or a TOML file with \\[eval.NAME] tables."
            ),
        ] = None,
        only: Annotated[list[str], typer.Option(metavar="NAME", help="Only this evaluation; may be repeated.")] = [],  # noqa: B006
        compare: Annotated[
            list[str],
            typer.Option(
                metavar="PATH", help="Another run, checkpoint, adapter or model on the same problems; may be repeated."
            ),
        ] = [],  # noqa: B006
        out: Annotated[
            Path | None,
            typer.Option(
                metavar="DIR", help="Keep every sample in NAME.jsonl here; an evaluation that was cut off goes on."
            ),
        ] = None,
        processes: Processes = None,
        as_json: Annotated[bool, typer.Option("--json", help="One object, by evaluation.")] = False,
    ) -> None:
        """Evaluate a model or a run (igpo eval runs/NAME) on its evaluations or a suite; compare several."""
        from igpo_cli.precheck import require_splits

        names = list(dict.fromkeys(only)) or list(config.evals())
        if not names:
            raise UsageError(
                "no evaluation is configured. Add [eval.NAME], or take a suite (--suite paper) or a preset "
                "(igpo config presets)."
            )
        for name in names:
            config.evaluation(name)
        require_splits(config, [f"eval.{name}" for name in names])
        from igpo_cli.assemble import device_of

        if (code := launch.start(app.launched, processes, None, cpu=config.run.device == "cpu")) is not None:
            raise typer.Exit(code)
        launch.join(device_of(config))
        scores = judged(config, names, compare, out)
        if launch.rank() == 0:
            print(json.dumps(plain(scores), indent=2, ensure_ascii=False)) if as_json else show(scores)


def judged(config: Config, names: list[str], compare: list[str], out: Path | None) -> Scores:
    """Every model on every evaluation."""
    from igpo_cli import contestants

    scores: Scores = {}
    for label, path in contestants.labels(config, compare).items():
        loaded = contestants.load(config, path)
        weights = contestants.digest(loaded.denoiser)
        folder = out / label.replace("/", "-") if out is not None and compare else out
        scores[label] = {name: one(config, name, loaded, weights, folder, label) for name in names}
        del loaded  # before the next one is loaded
    return scores


def one(config: Config, name: str, loaded: Any, weights: str, folder: Path | None, label: str) -> Score:
    """One model on one evaluation."""
    from igpo_cli.assemble import player_of, problem_set
    from igpo_cli.evaluate import batch_rows, evaluate
    from igpo_cli.ledger import Ledger, settings_of
    from igpo_cli.tasks import verifier_of

    scope, options = f"eval.{name}", config.evaluation(name)
    problems = problem_set(config, loaded, options.split, scope, options.limit)
    with verifier_of(config, scope) as verifier, progress(f"{label}: {name}") as told:
        player = player_of(config, loaded, problems, verifier, scope)
        ledger, done = None, []
        if folder is not None:
            settings = settings_of(config, name, problems, weights, batch_rows(player))
            ledger = Ledger(folder=folder, name=name, settings=settings, about={"model": label})
            done = launch.on_main(lambda: ledger.open(batch_rows(player)))
        try:
            score = evaluate(
                player,
                problems,
                samples=options.samples,
                seed=config.run.seed,
                pass_at=options.pass_at,
                done=done,
                keep=ledger.keep if ledger else None,
                told=told,
            )
        except ValueError as error:
            raise config.refuse(f"{scope}.sampler", error) from error
        if ledger is not None and launch.rank() == 0:
            ledger.close(score.metrics)
    return score


@contextmanager
def progress(title: str) -> Iterator[Callable[[int, int], None] | None]:
    """How far an evaluation is: a bar on a terminal, else a line now and then; on stderr, so that --json stays clean."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if launch.rank():
        yield None
    elif console.is_terminal:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(title, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)
    else:
        last = time.monotonic()

        def told(done: int, total: int) -> None:
            nonlocal last
            if time.monotonic() - last >= EVERY:
                last = time.monotonic()
                print(f"{title}: {done} of {total} samples", file=sys.stderr, flush=True)

        yield told


# What is shown -----------------------------------------------------------------------------------------------------


def differences(scores: Scores) -> dict[str, dict[str, Difference]]:
    """By evaluation and model: how much better it is than the first one, on the same problems."""
    from igpo_cli.paired import difference

    (_, first), *others = scores.items()
    return {
        name: {label: difference(score.correct, found[name].correct, score.samples) for label, found in others}
        for name, score in first.items()
    }


def plain(scores: Scores) -> dict[str, Any]:
    """For --json: metrics by evaluation; with several models these by model, and the differences to the first one."""
    from attrs import asdict

    models = {label: {name: score.metrics for name, score in found.items()} for label, found in scores.items()}
    if len(models) == 1:
        return next(iter(models.values()))
    found = {name: {label: asdict(each) for label, each in by.items()} for name, by in differences(scores).items()}
    return {"models": models, "differences": found}


def show(scores: Scores) -> None:
    """A row an evaluation and model; then one for each difference to the first model."""
    from igpo_cli import table

    several = len(scores) > 1
    columns = [
        table.Column("evaluation"),
        *([table.Column("model")] if several else []),
        table.Column("problems", right=True),
        table.Column("pass@1", right=True),
        table.Column("95 % interval", right=True),
        table.Column("more", prose=True),
    ]
    names = list(next(iter(scores.values())))
    table.show(columns, [
        [name, *([label] if several else []), *figures(found[name].metrics)]
        for name in names for label, found in scores.items()
    ])  # fmt: skip
    if not several:
        return
    first = next(iter(scores))
    print(f"\nagainst {first}, problem by problem:")
    titles = ("evaluation", "model", "difference", "95 % interval", "better on", "worse on", "p")
    rows = [
        [
            name,
            label,
            f"{it.value:+.3f}",
            f"{it.low:+.3f} to {it.high:+.3f}",
            str(it.better),
            str(it.worse),
            f"{it.p:.3g}",
        ]
        for name, by in differences(scores).items()
        for label, it in by.items()
    ]
    table.show([table.Column(title, right=at > 1) for at, title in enumerate(titles)], rows)


def figures(metrics: Mapping[str, float]) -> list[str]:
    """The cells of one score."""
    more = [f"{key} {value:.3f}" for key, value in metrics.items() if "@" in key and key != "pass@1"]
    return [
        f"{metrics['problems']:.0f}",
        f"{metrics['pass@1']:.3f}",
        f"{metrics['low']:.3f} to {metrics['high']:.3f}",
        "  ".join(more),
    ]
