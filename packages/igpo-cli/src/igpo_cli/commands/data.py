"""`igpo data`: look at tasks, clean them and rewrite them before they are trained on. One module a subcommand."""

from __future__ import annotations

from importlib import import_module

from igpo_cli.commands import App

COMMANDS = ("list", "show", "check", "stats", "dedupe", "contamination", "rewrite")
"""`igpo data NAME` is added by `register(app)` of the module data_NAME beside this one."""


def register(app: App) -> None:
    """Adds the group and its commands."""
    app.group("data", "Look at tasks, clean and rewrite them before they are trained on.")
    for name in COMMANDS:
        import_module(f"igpo_cli.commands.data_{name}").register(app)
