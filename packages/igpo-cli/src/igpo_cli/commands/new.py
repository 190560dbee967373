"""`igpo new`: a plug-in of one's own that works before it is changed."""

from __future__ import annotations

from typing import Annotated

import typer

from igpo_cli.commands import App


def register(app: App) -> None:
    """Adds the command."""

    @app.command()
    def new(
        name: Annotated[str, typer.Argument(help="Name of the plug-in and its package, such as my-idea.")],
        kind: Annotated[
            str,
            typer.Option(
                metavar="KIND",
                help="model, sampler, chunker, injection, filter, estimator, loss, task or verifier.",
            ),
        ],
        file: Annotated[bool, typer.Option("--file", help="A single file for --plugin instead of a package.")] = False,
    ) -> None:
        """Write a plug-in with its tests, ready to run and to be changed; nothing is ever overwritten."""
        from igpo_cli import scaffold
        from igpo_cli.commands.plugins import known

        scaffold.check_name(name, known(kind), app.catalogue)
        files = scaffold.single_file(name, kind) if file else scaffold.package(name, kind)
        scaffold.write(files)
        flag = f" --plugin ./{next(iter(files))}" if file else ""
        steps = [] if file else [f"pip install pytest -e {name}", f"pytest {name}"]
        steps += [f"igpo plugins show {kind} {name}{flag}", scaffold.command(name, kind) + flag]
        typer.echo("\n".join([*map(str, files), "", "What next:", *(f"  {step}" for step in steps)]))
