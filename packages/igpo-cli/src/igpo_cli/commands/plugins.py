"""`igpo plugins`: what there is to choose from, and what can be set on it."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from attrs import NOTHING, asdict

from igpo_cli.commands import App
from igpo_cli.completion import among
from igpo_cli.errors import UsageError, close

if TYPE_CHECKING:
    from igpo_cli.plugins import Catalogue, Row


def register(app: App) -> None:
    """Adds the command."""

    @app.command()
    def plugins(
        words: Annotated[
            list[str] | None,
            typer.Argument(
                metavar="[KIND | show KIND NAME]",
                help="A kind, or one plug-in to show with its options.",
                autocompletion=among(kinds),
            ),
        ] = None,
        plugin: Annotated[
            list[str] | None, typer.Option(metavar="FILE.py", help="Python file with plug-ins; may be repeated.")
        ] = None,
        as_json: Annotated[bool, typer.Option("--json", help="A list of objects instead of a table.")] = False,
    ) -> None:
        """List plug-ins by kind, or show one with its options."""
        for file in plugin or ():
            app.catalogue.add_file(file)
        match words or []:
            case ["show", kind, name]:
                found = details(app.catalogue, known(kind), name)
                print(json.dumps(found, indent=2)) if as_json else show_details(found)
            case ["show", *_]:
                raise UsageError("which plug-in? igpo plugins show KIND NAME, such as: igpo plugins show sampler llada")
            case [] | [_] as kinds:
                rows = listing(app.catalogue, [known(kind) for kind in kinds])
                print(json.dumps(rows, indent=2)) if as_json else show_listing(rows)
            case _:
                raise UsageError(f"igpo plugins takes one kind and not {len(words or [])}, or show KIND NAME")


def kinds() -> list[str]:
    """What may stand behind the command."""
    from igpo_cli.plugins import KINDS

    return ["show", *KINDS]


def known(kind: str) -> str:
    """The kind itself; an unknown one is an error."""
    from igpo_cli.plugins import KINDS

    if kind not in KINDS:
        meant = close(kind, KINDS)
        hint = f"Did you mean '{meant}'? " if meant else ""
        raise UsageError(f"no kind of plug-in named '{kind}'. {hint}There are: {', '.join(KINDS)}")
    return kind


def listing(catalogue: Catalogue, kinds: list[str]) -> list[dict[str, str]]:
    """Rows with a description; nothing is imported for it. Distributions that did not load stand in every list."""
    rows = [row for row in catalogue.rows if not kinds or not row.kind or row.kind in kinds]
    return [asdict(row) | described(row) for row in rows]


def described(row: Row) -> dict[str, str]:
    """The first line of the class's docstring, read from its source, or why there is none."""
    from igpo_cli.options import describe_source

    if not row.kind:
        return {"description": ""}
    module, _, name = row.target.partition(":")
    try:
        spec = importlib.util.find_spec(module)
        if spec is None or not spec.origin:
            raise LookupError(f"no module {module}")
        return {"description": describe_source(Path(spec.origin), name)[0]}
    except (ImportError, LookupError, OSError, SyntaxError) as error:
        return {"description": "", "status": f"{type(error).__name__}: {error}"}


def show_listing(rows: list[dict[str, str]]) -> None:
    """The table of `igpo plugins`, by kind."""
    from itertools import groupby

    from rich.text import Text

    from igpo_cli.table import Column, show

    shown: list[list[str | Text]] = []
    for kind, some in groupby(rows, lambda row: row["kind"]):
        shown += [["", "", ""]] if shown else []
        shown.append([Text(kind or "did not load", "bold"), "", ""])
        for row in some:
            good = row["status"] == "ok"
            about = row["description"] if good else f"{row['status']}. {row['description']}".rstrip()
            style = "" if good else "red"
            shown.append([Text(f"  {row['name']}", style), Text(about, style), source(row)])
    show([Column(""), Column("", prose=True), Column("", spare=True, style="dim")], shown)


def source(row: Mapping[str, Any]) -> str:
    """The distribution that a plug-in comes from."""
    return f"{row['distribution']} {row['version']}".rstrip()


def details(catalogue: Catalogue, kind: str, name: str) -> dict[str, Any]:
    """One plug-in and its options."""
    from igpo_cli.options import brief, describe, metavar, options

    row, cls = catalogue.find(kind, name), catalogue.load(kind, name)
    return asdict(row) | {
        "description": describe(cls)[0],
        "options": [
            {
                "name": option.name,
                "type": option.kind or metavar(option.type),
                "default": "required" if option.default is NOTHING else brief(option.default),
                "bounds": option.bounds,
                "help": option.help,
            }
            for option in options(cls).values()
        ],
    }


def show_details(found: dict[str, Any]) -> None:
    """The page of `igpo plugins show`."""
    from rich.text import Text

    from igpo_cli.table import Column, pipe_or_terminal, show

    console = pipe_or_terminal()
    kind, name = found["kind"], found["name"]
    console.print(Text.assemble((f"{kind} {name}", "bold"), (f"  {source(found)}, {found['target']}", "dim")))
    console.print(Text(f"{found['description']}\n"))
    rows: list[list[str | Text]] = [
        [
            option["name"],
            option["type"],
            option["default"],
            Text.assemble(option["help"], (f" [{option['bounds']}]" if option["bounds"] else "", "dim")),
        ]
        for option in found["options"]
    ]
    if rows:
        columns = [Column("option", style="bold"), Column("type"), Column("default"), Column("", prose=True)]
        show(columns, rows, console)
    else:
        console.print("It has no options.")
    console.print(Text(f'\n--{kind} {name}, or [{kind}] name = "{name}"', "dim"))
