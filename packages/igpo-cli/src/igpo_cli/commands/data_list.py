"""`igpo data list`: which tasks there are, their splits, and where they come from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from igpo_cli.commands import App

if TYPE_CHECKING:
    from collections.abc import Sequence

    from igpo_cli.plugins import Catalogue


def register(app: App) -> None:
    """Adds `igpo data list`."""
    group = app.group("data", "")

    @group.command("list")
    def list_(
        plugin: Annotated[
            list[Path] | None, typer.Option(metavar="FILE.py", help="Python file with plug-ins; may be repeated.")
        ] = None,
        as_json: Annotated[bool, typer.Option("--json", help="A list of objects.")] = False,
    ) -> None:
        """List the tasks: what they are, their splits, and the hub's data set or the file that they are read from."""
        for file in plugin or ():
            app.catalogue.add_file(str(file))
        rows = listing(app.catalogue)
        print(json.dumps(rows, indent=2)) if as_json else show(rows)


def listing(catalogue: Catalogue) -> list[dict[str, Any]]:
    """A row a task of the catalogue; one that does not load says so in its description."""
    from igpo_cli.errors import UsageError
    from igpo_cli.options import describe, options

    rows: list[dict[str, Any]] = []
    for name in catalogue.names("task"):
        try:
            cls = catalogue.load("task", name)
        except UsageError as error:
            rows.append({"name": name, "splits": [], "from": "", "description": str(error)})
            continue
        known = options(cls)
        hub = getattr(cls, "hub", None)
        needs = [key for key, option in known.items() if option.required]
        place = hub or ("--task.path" if "path" in needs else "other tasks" if needs else "generated")
        rows.append(
            {
                "name": name,
                "splits": list(getattr(cls, "splits", ())),
                "from": place,
                "description": describe(cls)[0],
            }
        )
    return rows


def show(rows: Sequence[dict[str, Any]]) -> None:
    """The table; on a terminal splits and origin stand below the description, on a pipe beside it."""
    from rich.text import Text

    from igpo_cli.pieces import visible
    from igpo_cli.table import PIPE, Column, pipe_or_terminal
    from igpo_cli.table import show as table

    console = pipe_or_terminal()
    told = [(row["name"], row["description"], ", ".join(row["splits"]), row["from"]) for row in rows]
    if console.width < PIPE:
        about = [
            Text.assemble(visible(description), "\n", (visible("; ".join(filter(None, places))), "dim"))
            for _, description, *places in told
        ]
        columns = [Column("", style="bold"), Column("", prose=True, least=20)]
        table(columns, [[row[0], text] for row, text in zip(told, about, strict=True)], console)
    else:
        columns = [Column("task"), Column("what it is"), Column("splits"), Column("from")]
        table(columns, told, console)
