"""The hook that igpo-cli itself defines; the nine kinds of plug-in belong to the libraries."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    import typer

hookspec = pluggy.HookspecMarker("igpo")
hookimpl = pluggy.HookimplMarker("igpo")


@hookspec
def igpo_commands(app: typer.Typer) -> None:
    """Add commands: `app.command("name")(function)`, or `igpo_cli.commands.config_command(app, "name")(function)`."""
