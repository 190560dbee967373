"""`igpo train`: SFT, then IGPO."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from igpo_cli.commands import App, config_command
from igpo_cli.errors import UsageError
from igpo_cli.launch import Accelerate, Processes, start

if TYPE_CHECKING:
    from igpo_cli.config import Config


DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Say what a step takes in forwards, memory, disk and time, and write nothing."),
]
PlanJson = Annotated[bool, typer.Option("--json", help="With --dry-run: print it as JSON.")]


def require_plan(dry_run: bool, as_json: bool) -> None:
    """UsageError where JSON is asked for and there is no plan to be printed."""
    if as_json and not dry_run:
        raise UsageError(
            "--json prints the plan of --dry-run; what a run does is in its metrics.jsonl (igpo runs show --json)"
        )


def say_plan(config: Config, processes: int | None, accelerate: Path | None, as_json: bool) -> None:
    """Print what the run would do."""
    from igpo_cli.plan import Job, plan, show

    made = plan(config, Job.of(processes, accelerate))
    if as_json:
        print(made.as_json())
    else:
        show(made)


def register(app: App) -> None:
    """Adds the command."""

    @config_command(app, "train")
    def train(
        config: Config,
        *,
        resume: Annotated[
            Path | None,
            typer.Option(metavar="RUN", help="Go on with a run, by folder or name; flags go over its run.toml."),
        ] = None,
        processes: Processes = None,
        accelerate: Accelerate = None,
        dry_run: DryRun = False,
        as_json: PlanJson = False,
    ) -> None:
        """Train a model: masked-diffusion SFT, then IGPO, as the tables say."""
        from igpo_cli.precheck import require_trainable

        if resume is not None and not (resume / "run.toml").is_file():
            raise UsageError(
                f"{resume} holds no run.toml, so it is no run to resume. Runs are in {config.run.folder}/."
            )
        if resume is not None and (config.file is None or config.file.resolve() != (resume / "run.toml").resolve()):
            raise UsageError(
                f"--resume goes on with {resume / 'run.toml'}, over which flags go. Leave {config.file} out, or --resume."
            )
        require_plan(dry_run, as_json)
        require_trainable(config, processes)
        if dry_run:
            say_plan(config, processes, accelerate, as_json)
            return
        from igpo_cli.training import run

        if (code := start(app.launched, processes, accelerate, cpu=config.run.device == "cpu")) is not None:
            raise typer.Exit(code)
        run(config, resume=resume)
