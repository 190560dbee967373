"""`igpo doctor`: what is installed, what works, and what to do about the rest."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer
from attrs import asdict, frozen

from igpo_cli.commands import App
from igpo_cli.trackers import EXTRAS

if TYPE_CHECKING:
    from igpo_cli.plugins import Catalogue

VERSIONS = (
    "igpo-cli",
    "igpo-rl",
    "igpo-sampling",
    "igpo-data",
    "torch",
    "transformers",
    "accelerate",
    "peft",
    "datasets",
)
TRACKERS = ("tensorboard", "trackio", "wandb", "mlflow")
STYLES = {"ok": "green", "warning": "yellow", "error": "red", "absent": "dim"}


@frozen
class Finding:
    """One thing that was looked at."""

    topic: str
    name: str
    state: str
    """ok, warning, error, or absent (not installed, and not needed)."""
    detail: str


def register(app: App) -> None:
    """Adds the command."""

    @app.command()
    def doctor(
        folder: Annotated[str, typer.Option(help="Where run directories are to be made.")] = "runs",
        as_json: Annotated[bool, typer.Option("--json", help="A list of objects instead of a table.")] = False,
    ) -> None:
        """Check versions, plug-ins, device, run folder and optional tools. Exit code 1 if something is broken."""
        found = [*versions(), *plugins(app.catalogue), device(), writable(folder), *trackers()]
        if as_json:
            print(json.dumps([asdict(finding) for finding in found], indent=2))
        else:
            show(found)
        if any(finding.state == "error" for finding in found):
            raise typer.Exit(1)


def versions() -> Iterator[Finding]:
    """Python and the packages that a run needs."""
    yield Finding("version", "python", "ok", platform.python_version())
    for name in VERSIONS:
        try:
            yield Finding("version", name, "ok", importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            yield Finding("version", name, "error", f"not installed: pip install {name}")


def plugins(catalogue: Catalogue) -> Iterator[Finding]:
    """Every plug-in is imported here, and only its trouble is listed."""
    from igpo_cli.options import options
    from igpo_cli.plugins import load_target

    good = 0
    for row in catalogue.rows:
        name = f"{row.kind} {row.name}" if row.kind else row.distribution
        if row.status != "ok":
            yield Finding("plug-in", name, "warning" if row.kind else "error", f"{row.status} ({row})")
            continue
        try:
            options(load_target(row.target))
            good += 1
        except Exception as error:  # noqa: BLE001 somebody else's code, which may fail in any way
            yield Finding("plug-in", name, "error", f"{type(error).__name__}: {error} ({row})")
    for warning in catalogue.warnings:
        if "unknown hook" in warning:
            yield Finding("plug-in", "hooks", "warning", warning)
    yield Finding("plug-in", "loaded", "ok", f"{good} of {len(catalogue.rows)}; igpo plugins")


def device() -> Finding:
    """What `--device auto` takes."""
    import torch

    if torch.cuda.is_available():
        memory = torch.cuda.get_device_properties(0).total_memory / 2**30
        return Finding("device", "cuda", "ok", f"{torch.cuda.get_device_name(0)}, {memory:.0f} GiB")
    return Finding(
        "device", "cpu", "ok", f"{os.cpu_count()} cores, {torch.get_num_threads()} threads; torch sees no GPU"
    )


def writable(folder: str) -> Finding:
    """Whether run directories can be made: in the folder, or in the nearest one above it that exists."""
    place = os.path.abspath(folder)
    while not os.path.isdir(place):
        place = os.path.dirname(place)
    try:
        with tempfile.TemporaryFile(dir=place):
            return Finding("folder", folder, "ok", "can be written")
    except OSError as error:
        return Finding("folder", folder, "error", f"{error.strerror}; choose another with --folder")


def trackers() -> Iterator[Finding]:
    """Where metrics can go beside metrics.jsonl."""
    for name in TRACKERS:
        there = importlib.util.find_spec(name) is not None
        package = f"'igpo-cli[{name}]'" if name in EXTRAS else name
        yield Finding("tracker", name, "ok" if there else "absent", "" if there else f"pip install {package}")


def show(found: list[Finding]) -> None:
    """The table of `igpo doctor`."""
    from itertools import groupby

    from rich.text import Text

    from igpo_cli import table

    rows: list[list[str | Text]] = []
    for topic, some in groupby(found, lambda finding: finding.topic):
        rows.append([Text(topic, "bold"), "", ""])
        rows += [[f"  {each.name}", Text(each.state, STYLES[each.state]), each.detail] for each in some]
    table.show([table.Column(""), table.Column(""), table.Column("", prose=True, least=14)], rows)
