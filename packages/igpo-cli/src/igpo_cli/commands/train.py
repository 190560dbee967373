"""`igpo train`: SFT, then IGPO."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from igpo_cli.commands import App, config_command
from igpo_cli.errors import UsageError

if TYPE_CHECKING:
    from igpo_cli.config import Config


def register(app: App) -> None:
    """Adds the command."""

    @config_command(app, "train")
    def train(
        config: Config,
        *,
        resume: Annotated[
            Path | None,
            typer.Option(metavar="DIR", help="Go on with the run in this folder; flags go over its run.toml."),
        ] = None,
    ) -> None:
        """Train a model: masked-diffusion SFT, then IGPO, as the tables say."""
        from igpo_cli.training import run

        if resume is not None:
            config = resumed(app, config, resume)
        run(config, resume=resume)


def resumed(app: App, config: Config, folder: Path) -> Config:
    """The configuration of an earlier run, under the flags of this call."""
    from igpo_cli.config import FLAG, resolve

    file = folder / "run.toml"
    if not file.is_file():
        raise UsageError(f"{folder} holds no run.toml, so it is no run to resume. Runs are in {config.run.folder}/.")
    flags = {path: value_at(config.values, path) for path, origin in config.origins.items() if origin == FLAG}
    return resolve(None, file, flags, app.catalogue)


def value_at(values: Any, path: str) -> Any:
    """The value at a dotted path of nested tables."""
    for part in path.split("."):
        values = values[part]
    return values
