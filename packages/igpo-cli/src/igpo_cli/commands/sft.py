"""`igpo sft`: masked-diffusion SFT alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from igpo_cli.commands import App, config_command
from igpo_cli.commands.train import DryRun, PlanJson, require_plan, say_plan
from igpo_cli.errors import UsageError
from igpo_cli.launch import Accelerate, Processes, start

if TYPE_CHECKING:
    from igpo_cli.config import Config


def register(app: App) -> None:
    """Adds the command."""

    @config_command(app, "sft")
    def sft(
        config: Config,
        *,
        processes: Processes = None,
        accelerate: Accelerate = None,
        dry_run: DryRun = False,
        as_json: PlanJson = False,
    ) -> None:
        """Fine-tune a model on worked solutions; what `igpo train --steps 0` does."""
        from igpo_cli.precheck import require_trainable

        require_plan(dry_run, as_json)
        if config.origins["steps"] == "flag" and config.run.steps:
            raise UsageError(
                f"--steps counts steps of reinforcement learning, which igpo sft does without. --sft.steps {config.run.steps}"
            )
        config = config.replacing(steps=0)
        require_trainable(config, processes)
        if dry_run:
            say_plan(config, processes, accelerate, as_json)
            return
        from igpo_cli.training import run

        if (code := start(app.launched, processes, accelerate, cpu=config.run.device == "cpu")) is not None:
            raise typer.Exit(code)
        run(config)
