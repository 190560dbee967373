"""`igpo report`: what one or several runs did, as one HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from igpo_cli.completion import run_names


def register(app: typer.Typer) -> None:
    """Adds the command."""

    @app.command()
    def report(
        runs: Annotated[
            list[str],
            typer.Argument(
                metavar="RUN ...",
                help="Folders or names of runs; several become the arms of one report.",
                autocompletion=run_names,
            ),
        ],
        out: Annotated[
            Path | None, typer.Option(help="The file to write; for one run report.html in its folder.")
        ] = None,
    ) -> None:
        """Write one self-contained HTML page about one or several runs."""
        from igpo_cli.errors import UsageError, configuring
        from igpo_cli.history import find
        from igpo_cli.report import write_report

        if out is None and len(runs) > 1:
            raise UsageError("a report of several runs has no folder of its own. Say where with --out report.html.")
        with configuring():
            folders = [find(run) for run in runs]
            path = write_report(folders, out or folders[0] / "report.html")
        typer.echo(f"{path}  {path.stat().st_size / 1024:.0f} KiB")
