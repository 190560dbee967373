"""`igpo config`: what a run would be told, where each value came from, and whether it holds."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from igpo_cli import errors
from igpo_cli.commands import App, config_command

if TYPE_CHECKING:
    from igpo_cli.config import Config


def register(app: App) -> None:
    """Adds the group."""
    group = app.group("config", "Show and check the values of a run; list the presets.")

    @config_command(app, "config show")
    def show(
        config: Config, *, as_json: Annotated[bool, typer.Option("--json", help="Values, origins and notes.")] = False
    ) -> None:
        """Show every value as TOML, and behind it where it came from."""
        if as_json:
            found = {"values": config.values, "origins": config.origins, "notes": config.notes}
            print(json.dumps(found, indent=2, ensure_ascii=False))
        else:
            print_values(config)

    @config_command(app, "config check")
    def check(
        config: Config, *, as_json: Annotated[bool, typer.Option("--json", help="Plug-ins and notes.")] = False
    ) -> None:
        """Check every value and load every plug-in, but start nothing."""
        from igpo_cli.plugins import KINDS
        from igpo_cli.precheck import require_trainable

        require_trainable(config)
        chosen = {kind: config.values[kind]["name"] for kind in KINDS if kind in config.values}
        if as_json:
            print(json.dumps({"plugins": chosen, "notes": config.notes}, indent=2, ensure_ascii=False))
            return
        for note in config.notes:
            errors.warn(note)
        print("ok:", ", ".join(f"{kind} {name}" for kind, name in chosen.items()))

    @group.command()
    def presets(as_json: Annotated[bool, typer.Option("--json", help="A list of objects.")] = False) -> None:
        """List the presets."""
        from igpo_cli.config import presets as shipped

        rows = [
            {"name": name, "description": opening(path.read_text(encoding="utf-8"))} for name, path in shipped().items()
        ]
        if as_json:
            print(json.dumps(rows, indent=2, ensure_ascii=False))
        else:
            print_presets(rows)

    @group.command()
    def accelerate(
        name: Annotated[
            str | None, typer.Argument(metavar="NAME", help="Print this one, to be kept and changed.")
        ] = None,
        as_json: Annotated[bool, typer.Option("--json", help="A list of objects.")] = False,
    ) -> None:
        """List the files of accelerate's options that come with igpo (igpo train --accelerate NAME), or print one."""
        from igpo_cli.config import shipped

        files = shipped("clusters", "yaml")
        if name is not None:
            if name not in files:
                raise errors.UsageError(
                    f"no file named '{name}'. There are: {', '.join(files)} (igpo config accelerate)"
                )
            print(files[name].read_text(encoding="utf-8"), end="")
            return
        rows = [
            {"name": each, "description": opening(path.read_text(encoding="utf-8"))} for each, path in files.items()
        ]
        if as_json:
            print(json.dumps(rows, indent=2, ensure_ascii=False))
        else:
            print_presets(rows)


def opening(text: str) -> str:
    """The comment with which a TOML file begins."""
    lines = text.splitlines()
    end = next((number for number, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return " ".join(line.removeprefix("#").strip() for line in lines[:end])


def lines(values: Mapping[str, Any], origins: Mapping[str, str], path: str = "") -> Iterator[tuple[str, str]]:
    """The TOML lines of a table and those beneath it, each with the origin of its value."""
    from igpo_cli.options import show

    for key, value in values.items():
        if not isinstance(value, Mapping) or f"{path}{key}" in origins:
            yield f"{key} = {show(value)}", origins.get(f"{path}{key}", "")
    for key, value in values.items():
        if isinstance(value, Mapping) and f"{path}{key}" not in origins:
            inside = list(lines(value, origins, f"{path}{key}."))
            if inside and inside[0][0]:
                yield from (("", ""), (f"[{path}{key}]", ""))
            yield from inside


def print_values(config: Config) -> None:
    """The values as TOML with their origins as comments; defaults are dim."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    for text, origin in lines(config.values, config.origins):
        style = "bold" if text.startswith("[") else "dim" if origin == "default" else ""
        console.print(Text(text, style).append(f"{'':{max(2, 36 - len(text))}}# {origin}" if origin else "", "dim"))
    for note in config.notes:
        console.print(Text(f"# note: {note}", "yellow"))


def print_presets(rows: list[dict[str, str]]) -> None:
    """A name and its description a row."""
    from igpo_cli.table import Column, show

    show([Column("", style="bold"), Column("", prose=True)], [[row["name"], row["description"]] for row in rows])
