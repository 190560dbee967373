"""`igpo sft`: masked-diffusion SFT alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from igpo_cli.commands import App, config_command

if TYPE_CHECKING:
    from igpo_cli.config import Config


def register(app: App) -> None:
    """Adds the command."""

    @config_command(app, "sft")
    def sft(config: Config) -> None:
        """Fine-tune a model on worked solutions; what `igpo train --steps 0` does."""
        from igpo_cli.training import run

        run(config.replacing(steps=0))
