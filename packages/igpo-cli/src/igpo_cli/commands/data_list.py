"""`igpo data list`: which tasks there are, their splits, and where they come from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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


def listing(catalogue: Catalogue) -> list[dict[str, object]]:
    """A row a task of the catalogue; one that does not load says so in its description."""
    from igpo_cli.errors import UsageError
    from igpo_cli.options import describe, options

    rows: list[dict[str, object]] = []
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


def show(rows: Sequence[dict[str, object]]) -> None:
    """The table."""
    from rich.table import Table
    from rich.text import Text

    from igpo_cli.pieces import visible
    from igpo_cli.screen import tolerant_console

    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("task", style="bold", no_wrap=True)
    table.add_column("what it is; its splits; where it comes from")
    for row in rows:
        splits = ", ".join(row["splits"]) if isinstance(row["splits"], list) else ""
        about = "; ".join(filter(None, (splits, str(row["from"]))))
        table.add_row(
            Text(visible(str(row["name"]))),
            Text.assemble(visible(str(row["description"])), "\n", (visible(about), "dim")),
        )
    tolerant_console().print(table)
