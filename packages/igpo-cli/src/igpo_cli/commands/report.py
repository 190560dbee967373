"""`igpo report`: what one or several runs did, as one HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Adds the command."""

    @app.command()
    def report(
        runs: Annotated[list[Path], typer.Argument(help="Folders of runs; several become the arms of one report.")],
        out: Annotated[
            Path | None, typer.Option(help="The file to write; for one run report.html in its folder.")
        ] = None,
    ) -> None:
        """Write one self-contained HTML page about one or several runs."""
        from igpo_cli.errors import UsageError, configuring
        from igpo_cli.report import write_report

        if out is None and len(runs) > 1:
            raise UsageError("a report of several runs has no folder of its own. Say where with --out report.html.")
        with configuring():
            path = write_report(runs, out or runs[0] / "report.html")
        typer.echo(f"{path}  {path.stat().st_size / 1024:.0f} KiB")
